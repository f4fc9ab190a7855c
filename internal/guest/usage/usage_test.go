//go:build linux

package usage

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smolvm/smolvm/internal/wire"
)

// fakeProc is a machine with known accounts.
func fakeProc(t *testing.T) string {
	t.Helper()
	proc := t.TempDir()
	for name, text := range map[string]string{
		"uptime":    "12.34 20.00\n",
		"stat":      "cpu  100 10 50 900 5 3 2 77 0 0\ncpu0 50 5 25 450 2 1 1 40 0 0\ncpu1 50 5 25 450 3 2 1 37 0 0\nintr 5\n",
		"meminfo":   "MemTotal:        1000 kB\nMemFree:  100 kB\nMemAvailable:     400 kB\n",
		"diskstats": " 254 0 vda 10 0 100 1 5 0 40 1 0 0 0\n 254 16 vdb 1 0 8 1 1 0 2 1 0 0 0\n   7 0 loop0 9 9 999 9 9 9 999 9 0 0 0\n",
		"net/dev": "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n" +
			"    lo:  999    9 0 0 0 0 0 0  999 9 0 0 0 0 0 0\n  eth0: 5000   9 0 0 0 0 0 0  700 9 0 0 0 0 0 0\ndocker0: 77 9 0 0 0 0 0 0  77 9 0 0 0 0 0 0\n",
		"1/statm": "100 5 0 0 0 0 0\n", "2/statm": "0 0 0 0 0 0 0\n", "31/statm": "7 5 0 0 0 0 0\n", "self/statm": "7 5 0 0 0 0 0\n",
	} {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return proc
}

func TestRead(t *testing.T) {
	got, err := New(fakeProc(t), "/").Read()
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Usage{
		UptimeMS: 12340, CPUMS: 1650, CPUs: 2, Memory: 1000 << 10, MemoryUsed: 600 << 10,
		DiskRead: 108 * 512, DiskWritten: 42 * 512, NetReceived: 5000, NetSent: 700, Processes: 2,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(wire.Usage{}, "Disk", "DiskUsed")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.Disk <= 0 || !got.Sane() {
		t.Errorf("the disk: %+v", got)
	}
}

// The machine that runs the test has accounts that can be read, too.
func TestReadHere(t *testing.T) {
	got, err := New("/proc", "/").Read()
	if err != nil {
		t.Fatal(err)
	}
	if !got.Sane() || got.UptimeMS == 0 || got.CPUs == 0 || got.Memory == 0 || got.Processes == 0 {
		t.Errorf("%+v", got)
	}
}

func TestDamagedAccounts(t *testing.T) {
	for _, name := range []string{"uptime", "stat", "diskstats", "net/dev"} {
		proc := fakeProc(t)
		text, _ := os.ReadFile(filepath.Join(proc, name))
		bad := strings.NewReplacer("5", "x", "12.34", "soon").Replace(string(text))
		if err := os.WriteFile(filepath.Join(proc, name), []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := New(proc, "/").Read(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s damaged: %v", name, err)
		}
	}
}

// It tells until the stream is closed, and then ends.
func TestServe(t *testing.T) {
	ours, theirs := net.Pipe()
	done := make(chan error)
	go func() { done <- New(fakeProc(t), "/").Serve(context.Background(), theirs) }()
	if _, err := ours.Write([]byte(`{"every_ms":1}` + "\n")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	lines := bufio.NewScanner(ours)
	for range 3 {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		var u wire.Usage
		if err := json.Unmarshal(lines.Bytes(), &u); err != nil || u.CPUs != 2 {
			t.Errorf("%s: %v", lines.Text(), err)
		}
	}
	if took := time.Since(began); took < 2*wire.MinUsage-20*time.Millisecond {
		t.Errorf("three within %v: the least pause is %v", took, wire.MinUsage)
	}
	ours.Close()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("it goes on although nobody listens")
	}
}

func TestServeRefusesNonsense(t *testing.T) {
	ours, theirs := net.Pipe()
	done := make(chan error)
	go func() { done <- New(fakeProc(t), "/").Serve(context.Background(), theirs) }()
	if _, err := ours.Write([]byte("{\n")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("nonsense is no error")
	}
}
