//go:build vm

// Package vm_test launches real sandboxes from a published folder, over HTTP,
// with the built binary, and looks at them from outside as a user does.
//
// It needs bin/smolvm and dist/images (make build images). Nothing here is
// mocked: every case boots the published kernel and layers under QEMU.
package vm_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/test/cable"
)

var (
	binary = flag.String("smolvm", "../../bin/smolvm", "the program under test")
	images = flag.String("images", "../../dist/images", "the published folder to launch from")
	long   = flag.Bool("long", false, "run the long cases too")

	rebuild = flag.String("rebuild", "pi", "whose images are built a second time: presets with commas between, or all")

	firecracker = flag.String("firecracker", "", "the program firecracker, with which the rows for it have to boot")
)

// bound is the longest any single command may take on an emulating host that
// is busy with other work; a launch here takes 5-10 s.
const bound = 3 * time.Minute

// longBuild is bound for a command that builds a real agent's image: 5 min on an
// emulating host with both processors busy elsewhere.
const longBuild = 15 * time.Minute

// world is one SMOLVM_HOME and one catalogue, shared by the cases of a run.
type world struct {
	bin     string
	home    string
	address string
	path    string // PATH of the commands
	small   string // folder of the small catalogue
	env     []string
	bound   time.Duration // of one command; 0: bound

	once   sync.Once // starts the shared sandbox
	shared string
}

var theWorld *world

func TestMain(m *testing.M) {
	flag.Parse()
	if err := cable.Up(); err != nil {
		fmt.Fprintln(os.Stderr, "vm tests cannot run apart:", err)
		os.Exit(1)
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	w, done, err := newWorld()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm tests cannot run:", err)
		return 1
	}
	theWorld = w
	code := m.Run()
	if err := done(); err != nil {
		fmt.Fprintln(os.Stderr, "vm tests left something behind:", err)
		return 1
	}
	return code
}

func newWorld() (*world, func() error, error) {
	bin, err := filepath.Abs(*binary)
	if err != nil {
		return nil, nil, err
	}
	if *images, err = filepath.Abs(*images); err != nil { // smolvm runs elsewhere
		return nil, nil, err
	}
	for _, need := range []string{bin, filepath.Join(*images, "manifest.json")} {
		if _, err := os.Stat(need); err != nil {
			return nil, nil, fmt.Errorf("%w (run make build images first)", err)
		}
	}
	home, err := os.MkdirTemp("", "smolvm-vm-")
	if err != nil {
		return nil, nil, err
	}
	small, err := os.MkdirTemp("", "smolvm-vm-small-")
	if err != nil {
		return nil, nil, err
	}
	server := httptest.NewServer(http.FileServer(http.Dir(*images)))
	w := &world{
		small: small, bin: bin, home: home, address: server.URL + "/manifest.json", path: os.Getenv("PATH"),
		env: []string{"SMOLVM_IDLE_STOP=never"}, // a case may come back to the shared sandbox after a long one
	}
	return w, func() error {
		defer server.Close()
		w.command(context.Background(), "delete", "--all", "--yes").Run()
		left := w.processes("")
		return errors.Join(leftError(left), os.RemoveAll(home), os.RemoveAll(small))
	}, nil
}

func leftError(left []process) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("processes still alive: %v", left)
}

// command prepares one run of the program in this world.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.bin, args...)
	cmd.Dir = w.home
	cmd.Env = []string{
		"HOME=" + w.home, "PATH=" + w.path, "LANG=C.UTF-8", "TMPDIR=" + os.TempDir(),
		"SMOLVM_HOME=" + w.home, "SMOLVM_MANIFEST=" + w.address,
	}
	cmd.Env = append(cmd.Env, w.env...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is what one command left.
type result struct {
	stdout, stderr string
	status         int
}

// run runs one command to its end.
func (w *world) run(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(w.bound, bound))
	defer cancel()
	cmd := w.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("smolvm %s: %v", strings.Join(args, " "), err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must runs one command that has to succeed and returns its standard output.
func (w *world) must(t *testing.T, args ...string) string {
	t.Helper()
	r := w.run(t, nil, args...)
	if r.status != 0 {
		t.Fatalf("smolvm %s: status %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// sandbox starts a detached sandbox of its own for one case.
func (w *world) sandbox(t *testing.T, name string) string {
	t.Helper()
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1")
	t.Cleanup(func() { w.remove(name) })
	return name
}

func (w *world) remove(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	w.command(ctx, "delete", name, "--yes").Run()
}

// common gives the sandbox that cases share which do not disturb it.
func (w *world) common(t *testing.T) string {
	t.Helper()
	w.once.Do(func() {
		w.must(t, "claude", "start", "-n", "common", "--no-mount", "--no-attach", "--memory", "1G")
		w.shared = "common"
	})
	if w.shared == "" {
		t.Fatal("the shared sandbox did not start; see the first case that failed")
	}
	return w.shared
}

// state is what list says of a sandbox, empty when it does not know it.
func (w *world) state(t *testing.T, name string) string {
	t.Helper()
	var envelope struct {
		Data []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(w.must(t, "list", "--json")), &envelope); err != nil {
		t.Fatalf("list --json: %v", err)
	}
	for _, s := range envelope.Data {
		if s.Name == name {
			return s.State
		}
	}
	return ""
}

// process is one process of this world, found by its command line.
type process struct {
	pid  int
	args string
}

// processes finds those whose command line names this world's home and contains part.
// A caged QEMU knows its files by other names: those outside are added to its line.
func (w *world) processes(part string) []process {
	var found []process
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		raw, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if err != nil {
			continue
		}
		args := string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '}))
		if strings.Contains(args, "qemu-system") {
			args += w.shown(folder)
		}
		if !strings.Contains(args, w.home) || !strings.Contains(args, part) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(folder))
		found = append(found, process{pid, args})
	}
	return found
}

// shown are the files of this world's home that a process has mounted, as they are
// called outside. What the home lies on may be mounted elsewhere than its root.
func (w *world) shown(process string) string {
	table, _ := os.ReadFile(filepath.Join(process, "mountinfo"))
	var found strings.Builder
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		if _, below, ok := strings.Cut(fields[3], "/"+filepath.Base(w.home)+"/"); ok {
			found.WriteString(" " + filepath.Join(w.home, below))
		}
	}
	return found.String()
}

// supervisor and monitor find the two host processes of a sandbox.
func (w *world) supervisor(t *testing.T, name string) int {
	t.Helper()
	return w.one(t, name, func(args string) bool { return strings.Contains(args, " supervise ") })
}

func (w *world) monitor(t *testing.T, name string) int {
	t.Helper()
	return w.one(t, name, func(args string) bool { return strings.Contains(args, "qemu-system") })
}

func (w *world) one(t *testing.T, name string, is func(args string) bool) int {
	t.Helper()
	var pids []int
	for _, p := range w.processes("") {
		if is(p.args) && names(p.args, name) {
			pids = append(pids, p.pid)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("sandbox %s has processes %v, want exactly one; all: %v", name, pids, w.processes(""))
	}
	return pids[0]
}

// names tells whether a command line is about the sandbox: as an argument of
// its own or as a folder of a path.
func names(args, name string) bool {
	return strings.Contains(args+" ", " "+name+" ") || strings.Contains(args, "/sandboxes/"+name+"/")
}

// eventually waits for something the outside world does by itself (a process
// that was killed being reaped); the condition is asked again every 50 ms.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
