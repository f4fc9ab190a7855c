package imagebuild

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
)

// childVariable names the cache folder in which a child process builds.
const childVariable = "SMOLVM_TEST_BUILD"

// printer tells a parent how far the build is, and waits for its word to go on.
type printer struct{ mu sync.Mutex }

func (p *printer) Emit(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Println("event", e.Kind, e.Stage, e.Object)
	var word string
	_, _ = fmt.Scanln(&word) // without a parent the build goes on
}

// TestChildBuilds is the child's part of TestKilledBuilds.
func TestChildBuilds(t *testing.T) {
	dir := os.Getenv(childVariable)
	if dir == "" {
		t.Skip("only a child process of another test does this")
	}
	b, _ := newBuilder(t, dir)
	b.sink = &printer{}
	if _, err := b.Build(t.Context(), demoRequest()); err != nil {
		t.Fatal(err)
	}
	fmt.Println("complete")
}

// TestKilledBuilds kills builds at one moment after the other, all in one cache.
// What is visible in it is always whole, and the next build goes on with that.
func TestKilledBuilds(t *testing.T) {
	mkfsTool(t)
	dir := filepath.Join(t.TempDir(), "cache")
	kills := 0
	for ; !killedAt(t, dir, 2+kills); kills++ {
		checkVisible(t, dir)
		if kills > 100 {
			t.Fatal("the build never ends")
		}
	}
	t.Logf("%d builds were killed", kills)
	if kills < 4 {
		t.Error("these are too few")
	}
	b, machines := newBuilder(t, dir)
	if _, err := b.Build(t.Context(), demoRequest()); err != nil {
		t.Fatal(err)
	}
	if len(machines.specs) != 0 {
		t.Errorf("%d sandboxes for what was complete", len(machines.specs))
	}
	if _, err := os.Stat(b.cache.workDir()); err == nil {
		t.Error("the work folder is still there")
	}
}

// killedAt builds in a child, kills it after so many events, and reports whether
// it was complete before.
func killedAt(t *testing.T, dir string, events int) (complete bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildBuilds$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"="+dir, "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		complete = complete || lines.Text() == "complete"
		if strings.HasPrefix(lines.Text(), "event ") {
			if events--; events == 0 {
				_ = cmd.Process.Kill()
			}
			_, _ = fmt.Fprintln(in, "on") // to nobody, when it was killed
		}
	}
	_ = cmd.Wait() // it was killed, or is complete
	return complete
}

// checkVisible reads every result that a later build would accept.
func checkVisible(t *testing.T, dir string) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(dir, "*", "*", recordFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range records {
		kind := filepath.Base(filepath.Dir(filepath.Dir(path)))
		if kind == "work" {
			continue
		}
		if _, err := readRecord(filepath.Dir(path)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if !strings.HasSuffix(kind, "-archive") {
			continue
		}
		a, err := readArchive(filepath.Dir(path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, asset := range a.Assets {
			for _, blob := range []string{asset.Archive.File, asset.Index.File} {
				if digest, err := fileDigest(t.Context(), filepath.Join(a.Dir, blob), discard{}); err != nil || !strings.Contains(blob, digest.SHA256) {
					t.Errorf("%s is visible and is not its digest's (%v)", blob, err)
				}
			}
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// TestWrongSmokeLeavesNothing: an agent of another version, and one that fails.
func TestWrongSmokeLeavesNothing(t *testing.T) {
	for name, version := range map[string]string{"another version": "1.2.4", "a part of the version": "1.2"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b, _ := newBuilder(t, dir)
			request := demoRequest()
			request.Presets[0].Agent.Version = version
			if _, err := b.Build(t.Context(), request); fault.CodeOf(err) != fault.Build || !strings.Contains(err.Error(), version) {
				t.Fatalf("%v", err)
			}
			for _, kind := range []string{kindLayer, archiveKind(kindLayer)} {
				if left, err := os.ReadDir(filepath.Join(dir, kind)); err == nil && len(left) > 0 {
					t.Errorf("%s: %v", kind, left)
				}
			}
			if _, err := b.Build(t.Context(), demoRequest()); err != nil {
				t.Errorf("the right version after that: %v", err)
			}
		})
	}
}

// alone runs a test in a process of its own, whose limits are nobody else's, and
// reports whether this is that process.
func alone(t *testing.T) bool {
	t.Helper()
	const variable = "SMOLVM_TEST_ALONE"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// limited bounds the size of each file that this process writes: a disk that is
// full, for whoever is no root.
func limited(t *testing.T, bytes uint64, work func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	now := before
	now.Cur = bytes
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &now); err != nil {
		t.Skipf("the size of files cannot be bounded: %v", err)
	}
	work()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
}

func TestFullDiskWhileBuilding(t *testing.T) {
	if !alone(t) {
		return
	}
	dir := t.TempDir()
	b, _ := newBuilder(t, dir)
	var err error
	limited(t, 8<<10, func() { _, err = b.Build(t.Context(), demoRequest()) })
	if fault.CodeOf(err) != fault.Storage || !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("%v", err)
	}
	checkVisible(t, dir)
	if _, err := b.Build(t.Context(), demoRequest()); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestFullDiskWhilePublishing: no manifest, no file under a digest's name that is
// not whole, and the same command completes it.
func TestFullDiskWhilePublishing(t *testing.T) {
	if !alone(t) {
		return
	}
	p, images, _ := published(t)
	var err error
	limited(t, 2<<10, func() { _, err = p.Publish(t.Context(), images) })
	if fault.CodeOf(err) != fault.Storage || !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("%v", err)
	}
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == ".lock" {
			continue
		}
		digest, err := fileDigest(t.Context(), filepath.Join(p.Dir, e.Name()), discard{})
		if err != nil || !strings.Contains(e.Name(), digest.SHA256) {
			t.Errorf("%s is left (%v)", e.Name(), err)
		}
	}
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	verified(t, p, 1, p.Signers...)
}

func TestPublishingWhereNothingCanBeWritten(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("permissions mean nothing to root")
	}
	p, images, _ := published(t)
	if err := os.MkdirAll(p.Dir, 0o555); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Storage || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v", err)
	}
}
