// Package script_test runs the command line as users do: every file of testdata
// is a script of commands with what they must print and how they must end.
//
// The programs run in processes of their own, made of this test binary, with a
// home and an environment of their own. What is real: everything down to the
// download, the verification and the cache. What is not there: a VMM. A script
// that gets past every check finds a program in its place that only notes that
// it was started.
package script_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/cli"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/ui"
)

func TestMain(m *testing.M) {
	testscript.Main(cleaned{m}, map[string]func(){"smolvm": smolvm})
}

// cleaned removes what all scripts shared.
type cleaned struct{ m *testing.M }

func (c cleaned) Run() int {
	defer func() {
		if made, err := published(); err == nil {
			_ = os.RemoveAll(made.Dir)
		}
	}()
	return c.m.Run()
}

// smolvm is cmd/smolvm with a guest agent that is only a few bytes.
func smolvm() {
	if len(os.Args) > 1 && os.Args[1] == cage.Word {
		os.Exit(cage.Stage(os.Stderr))
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	signal.Ignore(syscall.SIGXFSZ)
	app := cli.New(cli.Outside{
		Streams: ui.NewStreams(os.Stdin, os.Stdout, os.Stderr, os.Getenv),
		Environ: os.Environ(), UserHome: os.Getenv("HOME"), Self: self, Presets: images.Files(),
		Directory: os.Getenv("STARTED_IN"), // of scripts that are about it
		Signals:   signals, Now: time.Now, Rand: rand.Reader,
	}, cli.Build{Version: "0.1.0", Commit: "0123456", Agent: func(arch string) ([]byte, error) {
		if arch != "amd64" {
			return nil, errors.New("not built in")
		}
		return []byte("agent"), nil
	}, AgentDigest: func(arch string) (string, error) {
		if arch != "amd64" {
			return "", errors.New("not built in")
		}
		return strings.Repeat("ab", 32), nil
	}})
	// What a script says of KVM stands for the probe, which has tests of its own.
	if reason, said := os.LookupEnv("KVM_IS"); said {
		app.KVM = func(context.Context, host.KVMOptions) (host.Verdict, error) {
			if reason == "usable" {
				return host.Verdict{Usable: true}, nil
			}
			return host.Verdict{Reason: reason}, nil
		}
	}
	os.Exit(app.Main(os.Args[1:]))
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"publish":  publish,
			"place":    place,
			"down":     down,
			"nginx":    nginx,
			"fault":    fault,
			"requests": requests,
			"wire":     wired,
			"served":   served,
			"emulator": emulator,
			"sandbox":  sandbox,
			"cached":   cached,
			"partial":  partial,
			"spoil":    spoil,
			"plant":    plant,
			"age":      age,
			"await":    await,
			"empty":    empty,
			"shell":    shell,

			"documented": documented,
		},
	})
}

// setup gives a script a home, and only our own programs on its PATH.
func setup(env *testscript.Env) error {
	bin, _, _ := strings.Cut(env.Getenv("PATH"), string(filepath.ListSeparator))
	env.Setenv("PATH", bin)
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("SMOLVM_HOME", filepath.Join(env.WorkDir, "state"))
	env.Setenv("TERM", "dumb")
	env.Values[siteKey{}] = &site{places: map[string]*server{}}
	env.Values[wireKey{}] = map[string]int64{}
	return os.Mkdir(filepath.Join(env.WorkDir, "home"), 0o755)
}

// condition knows root, for which permissions mean nothing, and nginx, which may
// not be installed.
func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Getuid() == 0, nil
	case "namespaces": // users may make some
		return exec.Command("/usr/bin/unshare", "--user", "--map-root-user", "--net", "true").Run() == nil, nil
	case "tap":
		tun, err := os.OpenFile(cage.TapDevice, os.O_RDWR, 0)
		if err == nil {
			_ = tun.Close()
		}
		return err == nil, nil
	case "nginx":
		_, err := os.Stat(nginxPath)
		return err == nil, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// answers are what a QEMU says of itself.
const answers = `#!/bin/sh
case "$1 $2" in
"--version ") echo "QEMU emulator version 9.2.0"; exit ;;
"-accel help") printf 'Accelerators supported in QEMU binary:\ntcg\nkvm\n'; exit ;;
"-machine help") printf 'Supported machines are:\nmicrovm  x\nvirt  x\n'; exit ;;
esac
`

// emulator [hang] puts programs in QEMU's place that say that they are able, note in
// the file "booted" that they were started, and fail, or never do anything.
func emulator(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.Getenv("WORK"), "emulator")
	ts.Check(os.MkdirAll(dir, 0o755))
	then := "echo stub: no machine here >&2\nexit 1\n"
	if len(args) > 0 && args[0] == "hang" {
		then = "exec /bin/sleep 600\n"
	}
	script := answers + "echo \"$$ $0\" >>'" + filepath.Join(ts.Getenv("WORK"), "booted") + "'\n" + then
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64"} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	ts.Setenv("PATH", dir+string(filepath.ListSeparator)+ts.Getenv("PATH"))
}

// patience bounds what scripts wait for.
const patience = 30 * time.Second

// await waits until a file is there, or with gone until every process that is
// noted in it has ended.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await FILE [gone]")
	}
	path := ts.MkAbs(args[0])
	there := func() bool { _, err := os.Stat(path); return err == nil }
	if len(args) > 1 && args[1] == "gone" {
		there = func() bool { return ended(ts.ReadFile(path)) }
	}
	for deadline := time.Now().Add(patience); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain: await %v", args)
		}
	}
}

// ended reports whether the processes that lines begin with have all ended.
func ended(lines string) bool {
	for line := range strings.Lines(lines) {
		number, _, _ := strings.Cut(line, " ")
		pid, err := strconv.Atoi(number)
		if err != nil || syscall.Kill(pid, 0) == nil {
			return false
		}
	}
	return true
}

// shell LINE runs a line in a shell, for limits that have to be set around a
// program: the scripts' own PATH has no shell.
func shell(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("/bin/sh", "-c", strings.Join(args, " "))
	if (err == nil) == neg {
		ts.Fatalf("shell: %v", err)
	}
}
