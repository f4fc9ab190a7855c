package acquire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/unpack"
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
		home: os.Getenv(childHome), events: &recorder{also: os.Stdout}, runSize: 300_000,
		stall: time.Minute, // who waits for a hung server has to be there when it is killed
	}
	if _, err := w.launch(t.Context()); err != nil {
		fmt.Println("failed", err)
	} else {
		fmt.Println("succeeded")
	}
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		_, rest, _ := strings.Cut(string(status), "VmHWM")
		line, _, _ := strings.Cut(rest, "\n")
		fmt.Println("VmHWM" + line)
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

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // "killed" is no news
}

// kill -9 while the second half of an asset is awaited: the next run asks for
// nothing of what was here.
func TestKilledResumesAtAFrame(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	base, index := w.asset("base"), w.index(t, "base")
	half := len(index.Frames) / 2
	w.server.Set(base.Archive.File, faulty.Fault{Stop: faulty.Hang, Within: faulty.Span{From: index.Frames[half].Offset}})
	cmd, lines := w.child(t)
	// Runs that hold a frame of the second half do not come.
	enough := index.Frames[half].Offset - w.runSize - catalogue.SmallFrame
	until(t, lines, "start base")
	w.awaitPartial(t, enough)
	kill(t, cmd)
	w.serve(t) // the old server may yet read requests of the one that is dead
	w.mustLaunch(t)
	var again int64
	for _, r := range w.server.Log(base.Archive.File) {
		again += r.Span.To - r.Span.From
	}
	if most := base.Archive.Size - enough + catalogue.SmallFrame; again > most {
		t.Errorf("asked for %d bytes again, at most %d were missing", again, most)
	}
	if left := append(w.temps(t), w.partials(t)...); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if n := w.server.Requests(base.Index.File); n != 0 {
		t.Error("the index was fetched again")
	}
}

// awaitPartial blocks until so many archive bytes of the base were written.
func (w *world) awaitPartial(t *testing.T, archive int64) {
	t.Helper()
	index := w.index(t, "base")
	path := filepath.Join(w.home, "store", "partial", w.asset("base").Index.SHA256, "content")
	decoder, err := unpack.NewDecoder()
	must(t, err)
	defer decoder.Close()
	await(t, "the first half of the base", func() bool {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		defer file.Close()
		writer, err := unpack.NewWriter(decoder, index, file)
		must(t, err)
		missing, err := writer.Missing(t.Context())
		must(t, err)
		left := index.ArchiveSize()
		for _, i := range missing {
			left -= index.Frames[i].Length
		}
		return left >= archive
	})
}

// The process that downloads is killed while others wait: one takes over, the
// others follow that one, and nothing that was here is fetched again.
func TestKilledWhileOthersWait(t *testing.T) {
	t.Parallel()
	for _, crowd := range []int{1, 9} {
		t.Run(fmt.Sprint(crowd), func(t *testing.T) {
			w := newSmallWorld(t)
			base, index := w.asset("base"), w.index(t, "base")
			w.server.Set(base.Archive.File, faulty.Fault{Stop: faulty.Hang, Within: faulty.Span{From: index.Frames[40].Offset}})
			first, lines := w.child(t)
			until(t, lines, "done claude-code")
			w.awaitPartial(t, index.Frames[30].Offset)
			var followers []*exec.Cmd
			var outputs []*bufio.Scanner
			for range crowd {
				cmd, out := w.child(t)
				until(t, out, "waiting for it")
				followers, outputs = append(followers, cmd), append(outputs, out)
			}
			w.server.Set(base.Archive.File)
			kill(t, first)
			taken := 0
			for i, out := range outputs {
				for out.Scan() && !strings.Contains(out.Text(), "succeeded") {
					if strings.Contains(out.Text(), "did not finish base") {
						taken++
					}
					if strings.Contains(out.Text(), "failed") {
						t.Error(out.Text())
					}
				}
				must(t, followers[i].Wait())
			}
			if taken != 1 {
				t.Errorf("%d processes took over", taken)
			}
			if n := w.server.Requests(w.asset("kernel").Archive.File); n > 1 {
				t.Errorf("the kernel was asked for %d times", n)
			}
			w.mustLaunch(t)
			if left := append(w.temps(t), w.partials(t)...); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// Processes at once on an empty cache: one download, and those who wait see how
// far it is.
func TestManyProcesses(t *testing.T) {
	t.Parallel()
	for _, crowd := range []int{2, 10} {
		t.Run(fmt.Sprint(crowd), func(t *testing.T) {
			w := newSmallWorld(t)
			w.server.Throttle(8 << 20)
			var children []*exec.Cmd
			var outputs []*bufio.Scanner
			for range crowd {
				cmd, lines := w.child(t)
				children, outputs = append(children, cmd), append(outputs, lines)
			}
			for i, lines := range outputs {
				until(t, lines, "succeeded")
				must(t, children[i].Wait())
			}
			w.oneDownload(t)
			w.mustLaunch(t)
		})
	}
}

// The variables of the long run of TestKilledAnywhere:
//
//	SMOLVM_KILL_POINTS=300 SMOLVM_KILL_SEED=1 scripts/go test ./internal/acquire -run TestKilledAnywhere -timeout 30m
const (
	pointsVariable = "SMOLVM_KILL_POINTS"
	seedVariable   = "SMOLVM_KILL_SEED"
)

// kill -9 at seeded moments, several times in a row on the same home: whatever is
// left, the next run completes it, and in the end there is nothing but the image.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	points, seed := 12, uint64(time.Now().UnixNano())
	if value := os.Getenv(pointsVariable); value != "" {
		_, err := fmt.Sscan(value, &points)
		must(t, err)
	}
	if value := os.Getenv(seedVariable); value != "" {
		_, err := fmt.Sscan(value, &seed)
		must(t, err)
	}
	random := rand.New(rand.NewPCG(seed, 0))
	w := newSmallWorld(t)
	w.server.Throttle(16 << 20)
	for n := 0; n < points; {
		w.home = filepath.Join(t.TempDir(), "home")
		for range 1 + random.IntN(4) {
			n++
			w.killAt(t, random)
		}
		w.mustLaunch(t)
		if left := append(w.temps(t), w.partials(t)...); len(left) > 0 {
			t.Fatalf("%s=%d, point %d: left behind: %q", seedVariable, seed, n, left)
		}
	}
}

// killAt kills a launch after a number of its events, or after a time. One that
// is over by then is a launch like any other.
func (w *world) killAt(t *testing.T, random *rand.Rand) {
	t.Helper()
	cmd, lines := w.child(t)
	if random.IntN(2) == 0 {
		for range random.IntN(30) {
			if !lines.Scan() {
				break
			}
		}
	} else {
		<-time.After(time.Duration(random.IntN(600)) * time.Millisecond)
	}
	kill(t, cmd)
}

// A file-size limit stands for a disk or quota that ends while writing: one
// clear error, nothing left, and the next try works.
func TestNoSpaceWhileWriting(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
