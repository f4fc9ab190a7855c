package firecracker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
)

// console is a machine's console.
type console struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// standIn is a driver of the stand-in, in a real cage.
func standIn(t *testing.T) *Driver {
	t.Helper()
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip("the cage shows /dev/kvm, and there is none: ", err)
	}
	runner := testRunner(t, build(t, "github.com/smolvm/smolvm/internal/vmm/firecracker/apitest/standin"))
	if err := cage.Try(t.Context(), runner); err != nil {
		t.Skip(err)
	}
	return New(Options{Runner: runner, Random: rand.Reader})
}

func testSpec(t testing.TB, behaviour string) (vmm.Spec, *console) {
	t.Helper()
	dir, out := t.TempDir(), &console{}
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return vmm.Spec{
		Name: "test", Arch: "amd64", Accel: vmm.KVM, CPUs: 1, MemoryMiB: 2048, Kernel: file("kernel"), Initrd: file("initrd"),
		CommandLine: "standin=" + behaviour, RunDir: t.TempDir(), Console: out,
		Drives: []vmm.Drive{{ID: "layer0", Path: file("layer"), ReadOnly: true}, {ID: "scratch", Path: file("scratch")}},
	}, out
}

// TestEnds: how a machine ended is judged by what the guest, the log and the
// counters said, never by the exit status.
func TestEnds(t *testing.T) {
	driver := standIn(t)
	for behaviour, want := range map[string]struct {
		code fault.Code
		text string
	}{
		"internal-error":   {fault.Host, "KVM internal error"},
		"failed-processor": {fault.Host, "KVM internal error"},
		"panic":            {fault.Boot, "reset without a word"},
		"die":              {fault.Boot, "exit status 148"},
		"poweroff":         {"", ""},
	} {
		t.Run(behaviour, func(t *testing.T) {
			spec, out := testSpec(t, behaviour)
			m, err := driver.Start(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			if behaviour == "poweroff" {
				letGo(t, m)
			}
			err = m.Wait()
			if want.text == "" && err != nil || want.text != "" && (fault.CodeOf(err) != want.code || !strings.Contains(err.Error(), want.text)) {
				t.Errorf("%v, want %s %q", err, want.code, want.text)
			}
			if !strings.Contains(out.String(), "the guest's console") {
				t.Errorf("console: %q", out)
			}
			if err != nil && strings.Contains(err.Error(), "smolvm.vsock") {
				t.Errorf("the token is shown: %v", err)
			}
			nothingLeft(t, spec.RunDir)
		})
	}
}

// letGo takes the guest's link and closes it.
func letGo(t *testing.T, m vmm.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := m.Link(ctx)
	if err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, 6)
	if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != "hello " {
		t.Fatalf("%q, %v", hello, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the run folder: %v, %v", left, err)
	}
}

// TestReboot: a guest that reboots finds its machine again, in another process.
func TestReboot(t *testing.T) {
	spec, out := testSpec(t, "reboot")
	m, err := standIn(t).Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	first := m.Pid()
	letGo(t, m)
	letGo(t, m)
	if m.Pid() == first {
		t.Error("the same process")
	}
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	if err := m.Wait(); err != nil {
		t.Errorf("Wait after Kill: %v", err)
	}
	if n := strings.Count(out.String(), "the guest's console"); n < 2 {
		t.Errorf("%d boots on the console", n)
	}
	nothingLeft(t, spec.RunDir)
}

// TestStranger: a caller without the token gets no link.
func TestStranger(t *testing.T) {
	spec, _ := testSpec(t, "stranger")
	m, err := standIn(t).Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill() //nolint:errcheck // never fails
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := m.Link(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stranger has the link: %v", err)
	}
}

func TestRefusedSpecs(t *testing.T) {
	driver := New(Options{Runner: testRunner(t, "/nowhere/firecracker"), Random: rand.Reader})
	for name, change := range map[string]func(*vmm.Spec){
		"emulation":       func(s *vmm.Spec) { s.Accel = vmm.TCG },
		"no processor":    func(s *vmm.Spec) { s.CPUs = 0 },
		"many processors": func(s *vmm.Spec) { s.CPUs = 34 },
		"odd processors":  func(s *vmm.Spec) { s.CPUs = 3 },
		"little memory":   func(s *vmm.Spec) { s.MemoryMiB = 8 },
		"drives of a name": func(s *vmm.Spec) {
			s.Drives = []vmm.Drive{{ID: "a"}, {ID: "a"}}
		},
		"a drive outside": func(s *vmm.Spec) { s.Drives = []vmm.Drive{{ID: "../kernel"}} },
		"no console":      func(s *vmm.Spec) { s.Console = nil },
	} {
		spec, _ := testSpec(t, "")
		change(&spec)
		if _, err := driver.Start(t.Context(), spec); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	spec, _ := testSpec(t, "")
	if _, err := driver.Start(t.Context(), spec); fault.CodeOf(err) != fault.Host || !strings.Contains(err.Error(), "/nowhere/firecracker") {
		t.Errorf("no Firecracker: %v", err)
	}
}

// TestNotFirecracker: what ends at once, and what a cage cannot hold, is explained.
func TestNotFirecracker(t *testing.T) {
	standIn(t) // skips where there are no cages
	for binary, want := range map[string]string{"/bin/true": "did not come up", "/dev/null": "no program file"} {
		driver := New(Options{Runner: testRunner(t, binary), Random: rand.Reader})
		spec, _ := testSpec(t, "")
		if _, err := driver.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", binary, err)
		}
		nothingLeft(t, spec.RunDir)
	}
}
