package acquire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

// The variables that make this test's binary a launching process of its own.
const (
	childURL   = "SMOLVM_ACQUIRE_TEST_URL"
	childHome  = "SMOLVM_ACQUIRE_TEST_HOME"
	childKey   = "SMOLVM_ACQUIRE_TEST_KEY"
	childLimit = "SMOLVM_ACQUIRE_TEST_FILE_LIMIT" // bytes a file may have
)

// TestChild is not a test: it is what the child processes of the tests below
// run. It prints every event on a line.
func TestChild(t *testing.T) {
	url := os.Getenv(childURL)
	if url == "" {
		t.Skip("only runs as a child of other tests")
	}
	if limit := os.Getenv(childLimit); limit != "" {
		var bytes uint64
		if _, err := fmt.Sscan(limit, &bytes); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: bytes}); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{
		made: &catalogue.Catalogue{PublicKey: os.Getenv(childKey)}, url: url,
		home: os.Getenv(childHome), events: &recorder{also: os.Stdout},
	}
	if _, err := w.launch(t.Context()); err != nil {
		fmt.Println("failed", err)
	} else {
		fmt.Println("succeeded")
	}
}

// child starts a launch in a process of its own and returns its output.
func (w *world) child(t *testing.T, more ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), childURL+"="+w.url, childHome+"="+w.home, childKey+"="+w.made.PublicKey)
	cmd.Env = append(cmd.Env, more...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return cmd, bufio.NewScanner(out)
}

// until reads lines to the first that holds the text.
func until(t *testing.T, lines *bufio.Scanner, text string) string {
	t.Helper()
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return lines.Text()
		}
	}
	t.Fatalf("the process never said %q", text)
	return ""
}

// awaitRequest blocks until a file was asked for.
func (w *world) awaitRequest(t *testing.T, file string) {
	t.Helper()
	await(t, "a request for "+file, func() bool { return w.server.Requests(file) > 0 })
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // "killed" is no news
}

// kill -9 in the middle of each asset: the next run removes what is left and
// fetches nothing that was complete.
func TestKilledWhileFetching(t *testing.T) {
	names := []string{"kernel", "modules", "base", "claude-code"}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			asset := w.asset(name)
			w.server.Set(asset.Archive.File, faulty.Fault{Stop: faulty.Hang, After: asset.Archive.Size / 2, Times: 1})
			cmd, lines := w.child(t)
			until(t, lines, "start "+name)
			w.awaitRequest(t, asset.Archive.File)
			kill(t, cmd)
			if len(w.temps(t)) == 0 {
				t.Error("nothing was left behind: this is not the case to test")
			}
			w.mustLaunch(t)
			if left := w.temps(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			for _, done := range names[:i] {
				if n := w.server.Requests(w.asset(done).Archive.File); n != 1 {
					t.Errorf("%s was fetched %d times", done, n)
				}
			}
		})
	}
}

// The process that downloads is killed while another waits: that one takes over.
func TestKilledWhileAnotherWaits(t *testing.T) {
	w := newWorld(t)
	base := w.asset("base")
	w.server.Set(base.Archive.File, faulty.Fault{Stop: faulty.Hang, After: 1000, Times: 1})
	first, lines := w.child(t)
	until(t, lines, "start base")
	w.awaitRequest(t, base.Archive.File)
	second, waiting := w.child(t)
	until(t, waiting, "waiting for it")
	kill(t, first)
	until(t, waiting, "succeeded")
	must(t, second.Wait())
	if n := w.server.Requests(base.Archive.File); n != 2 {
		t.Errorf("the base was asked for %d times", n)
	}
	if n := w.server.Requests(w.asset("kernel").Archive.File); n != 1 {
		t.Errorf("the kernel was fetched %d times", n)
	}
	w.mustLaunch(t)
	if left := w.temps(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Ten processes at once on an empty cache: one download.
func TestManyProcesses(t *testing.T) {
	w := newWorld(t)
	var children []*exec.Cmd
	var outputs []*bufio.Scanner
	for range 10 {
		cmd, lines := w.child(t)
		children, outputs = append(children, cmd), append(outputs, lines)
	}
	for i, lines := range outputs {
		until(t, lines, "succeeded")
		must(t, children[i].Wait())
	}
	for _, name := range []string{"kernel", "modules", "base", "claude-code"} {
		if n := w.server.Requests(w.asset(name).Archive.File); n != 1 {
			t.Errorf("%s was downloaded %d times", name, n)
		}
	}
}

// A file-size limit stands for a disk or quota that ends while writing: one
// clear error, nothing left, and the next try works.
func TestNoSpaceWhileWriting(t *testing.T) {
	w := newWorld(t)
	cmd, lines := w.child(t, childLimit+"=1000000")
	line := until(t, lines, "failed")
	must(t, cmd.Wait())
	if !strings.Contains(line, "bytes are free") || !strings.Contains(line, w.home) {
		t.Errorf("said: %s", line)
	}
	if left := w.temps(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	w.mustLaunch(t)
}

// A power cut after any step of adopting an object: what was not renamed yet is
// not there, and what is there is whole. The steps are played by hand, as a
// process stopped between them leaves them.
func TestHalfAdoptedObjects(t *testing.T) {
	w := newWorld(t)
	image := w.mustLaunch(t)
	folder := filepath.Dir(image.Layers[0].Path)
	tests := map[string]func(t *testing.T){
		"content alone": func(t *testing.T) {
			must(t, os.Remove(filepath.Join(folder, "index.json")))
			must(t, os.Remove(filepath.Join(folder, "record.json")))
		},
		"no record":  func(t *testing.T) { must(t, os.Remove(filepath.Join(folder, "record.json"))) },
		"record cut": func(t *testing.T) { must(t, os.Truncate(filepath.Join(folder, "record.json"), 50)) },
		"content empty": func(t *testing.T) {
			must(t, os.Chmod(image.Layers[0].Path, 0o644))
			must(t, os.Truncate(image.Layers[0].Path, 0))
		},
		"empty folder": func(t *testing.T) { must(t, os.RemoveAll(folder)); must(t, os.Mkdir(folder, 0o755)) },
		"no view":      func(t *testing.T) { must(t, os.RemoveAll(filepath.Join(w.home, "images", "1.0.0"))) },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			damage(t)
			again := w.mustLaunch(t)
			if again.Layers[0].Path != image.Layers[0].Path {
				t.Errorf("path %s", again.Layers[0].Path)
			}
		})
	}
}

// The bound on waiting: a second launch that is cancelled while it waits gives
// up at once.
func TestCancelWhileWaiting(t *testing.T) {
	w := newWorld(t)
	w.server.Set(w.asset("base").Archive.File, faulty.Fault{Stop: faulty.Hang, After: 1000})
	first, lines := w.child(t)
	until(t, lines, "start base")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := w.launch(ctx); done <- err }()
	w.events.await(t, "waiting for it")
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("still waiting")
	}
	kill(t, first)
}
