//go:build vm

package vm_test

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The long tier: what takes minutes for each case. It runs with -args -long.
var (
	seed   = flag.Uint64("seed", 0, "seed of the random moments; 0 takes the clock")
	points = flag.Int("points", 40, "how many kill points the long tier has")
)

// needLong skips a case of the long tier by name.
func needLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("a long case: run it with -args -long (scripts/test-full)")
	}
}

// dice makes the random choices of one case and says how to repeat them.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	value := *seed
	if value == 0 {
		value = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -args -seed=%d", value)
	return rand.New(rand.NewPCG(value, 0))
}

// moment is a random part of a whole.
func moment(random *rand.Rand, whole time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(whole)))
}

// mirror serves a published folder and counts the body bytes of each file.
type mirror struct {
	http.Handler
	address string // of the manifest

	mu   sync.Mutex
	sent map[string]int64
	trip func(archives int64) // nil, or told how many bytes of archives were sent
	rate int64                // bytes a second for each connection; 0: no limit
}

func serve(t *testing.T, dir string) *mirror {
	t.Helper()
	s := &mirror{Handler: http.FileServer(http.Dir(dir)), sent: map[string]int64{}}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections() // a killed client may have left one that is being written to
		server.Close()
	})
	s.address = server.URL + "/manifest.json"
	return s
}

func (s *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Handler.ServeHTTP(&counted{ResponseWriter: w, count: func(n int) {
		s.rest(n)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent[r.URL.Path[1:]] += int64(n)
		if s.trip != nil {
			s.trip(s.archives())
		}
	}}, r)
}

// counted counts what is written to a response.
type counted struct {
	http.ResponseWriter
	count func(n int)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.count(n)
	return n, err
}

// slow holds each connection to a rate from now on.
func (s *mirror) slow(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate = rate
}

// rest takes the time that so many bytes take on the link.
func (s *mirror) rest(n int) {
	s.mu.Lock()
	rate := s.rate
	s.mu.Unlock()
	if rate > 0 {
		time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
	}
}

// at calls do once so many more bytes of archives were sent.
func (s *mirror) at(bytes int64, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes += s.archives()
	s.trip = func(sent int64) {
		if sent >= bytes {
			s.trip = nil
			do()
		}
	}
}

// total is how many bytes of archives were sent.
func (s *mirror) total() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.archives()
}

func (s *mirror) archives() int64 {
	var all int64
	for name, n := range s.sent {
		if strings.HasSuffix(name, ".zst") {
			all += n
		}
	}
	return all
}

// downloads gives the bytes sent of each archive.
func (s *mirror) downloads() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := maps.Clone(s.sent)
	maps.DeleteFunc(sent, func(name string, _ int64) bool { return !strings.HasSuffix(name, ".zst") })
	return sent
}

// fresh is a world with an empty cache of its own, removed after the case with
// everything that runs in it.
func (w *world) fresh(t *testing.T, address string) *world {
	t.Helper()
	home, err := os.MkdirTemp("", "smolvm-vm-")
	if err != nil {
		t.Fatal(err)
	}
	own := &world{bin: w.bin, home: home, address: address, path: w.path}
	t.Cleanup(own.end)
	return own
}

// end removes a world. It may be called twice.
func (w *world) end() {
	w.remove("--all")
	for _, p := range w.processes("") {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	_ = os.RemoveAll(w.home)
}

// launch starts a small sandbox that nobody attaches to.
func launch(name string) []string {
	return []string{"claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "512M", "--cpus", "1"}
}

// footprint is what a world has on disk: every path below its home, without
// what may be there or not at any time (locks and folders, which hold nothing).
type footprint struct {
	paths []string
	bytes int64 // allocated
}

// look takes the footprint. A hard-linked file counts once. The memory of trust
// removes its own orphans when they are an hour old.
func look(t *testing.T, home string) footprint {
	t.Helper()
	var f footprint
	seen := map[uint64]bool{}
	err := filepath.WalkDir(home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		if stat.Size == 0 && stat.Blocks == 0 {
			return nil // a lock, a serial
		}
		if !seen[stat.Ino] {
			seen[stat.Ino] = true
			f.bytes += stat.Blocks * 512
		}
		name, err := filepath.Rel(home, path)
		if strings.HasPrefix(name, "trust/") && entry.Name()[0] == '.' {
			return err
		}
		f.paths = append(f.paths, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(f.paths)
	return f
}

// slack is how far the allocation of equal files may differ: file systems
// allocate the same bytes in different pieces.
const slack = 1 << 20

// difference says what one footprint has that the other has not.
func (f footprint) difference(want footprint) string {
	var text []string
	for _, path := range f.paths {
		if !slices.Contains(want.paths, path) {
			text = append(text, "too much: "+path)
		}
	}
	for _, path := range want.paths {
		if !slices.Contains(f.paths, path) {
			text = append(text, "missing: "+path)
		}
	}
	if grown := f.bytes - want.bytes; grown > slack || grown < -slack {
		text = append(text, fmt.Sprintf("%d bytes on disk, want %d", f.bytes, want.bytes))
	}
	return strings.Join(text, "\n")
}

// idle waits until no process of the world is left.
func (w *world) idle(t *testing.T, when string) {
	t.Helper()
	eventually(t, when+": no process is left", func() bool { return len(w.processes("")) == 0 })
}

// openFiles counts a process's file descriptors.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// resident is the memory of a process in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatalf("process %d has no VmRSS", pid)
	return 0
}
