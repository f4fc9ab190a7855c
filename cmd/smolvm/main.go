// Command smolvm runs coding agents in small virtual machines.
package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/cli"
	"github.com/smolvm/smolvm/internal/embedded"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/ui"
)

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) > 1 && os.Args[1] == cage.Word { // this program confines another one
		return cage.Stage(os.Stderr)
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "smolvm: find this program's own file:", err)
		return 1
	}
	home, _ := os.UserHomeDir() // without one, SMOLVM_HOME has to be set, and the error says so
	signals := make(chan os.Signal, 8)
	for _, sig := range cli.Signals() {
		if !signal.Ignored(sig) { // under nohup, hanging up stays ignored
			signal.Notify(signals, sig)
		}
	}
	doubleProcs()
	process.HideInherited()
	signal.Ignore(syscall.SIGXFSZ) // a limit on file sizes is an error of the write, like a full disk
	release := embedded.Release()
	app := cli.New(cli.Outside{
		Streams:  ui.NewStreams(os.Stdin, os.Stdout, os.Stderr, os.Getenv),
		Environ:  os.Environ(),
		UserHome: home, Directory: directory(),
		Self:    self,
		Presets: images.Files(),
		Signals: signals,
		Now:     time.Now,
		Rand:    rand.Reader,
	}, cli.Build{
		Version: release.Version, Commit: release.Commit, Development: release.Development, Built: release.Built,
		Agent: embedded.Agent, AgentDigest: embedded.AgentDigest,
	})
	return app.Main(os.Args[1:])
}

// directory is where the program was started. One that was deleted is nobody's.
func directory() string {
	here, err := os.Getwd()
	if err != nil {
		return ""
	}
	if here, err = filepath.EvalSymlinks(here); err != nil {
		return ""
	}
	return here
}

// doubleProcs lets as many goroutines run as there are processors although others
// wait for a disk: the scheduler takes 20 µs to 10 ms to notice that a write past
// the page cache blocks. A pull of claude-code on 2 processors took 1.07 s instead
// of 1.30 s. A number that the user set stays.
func doubleProcs() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}
