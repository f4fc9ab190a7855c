package fake_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance"
	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
	"github.com/smolvm/smolvm/internal/vmm/fake"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Setup{
		Driver: &fake.Driver{Guest: run}, Arch: runtime.GOARCH, Accel: vmm.TCG, Boot: patience, Differ: true,
	})
}

const patience = 10 * time.Second

// run is a whole guest: it boots again after a reboot.
func run(g *fake.Guest) error {
	for m := newMachine(g); ; {
		conn, err := g.Open()
		if err != nil {
			return nil
		}
		op, err := guest.Serve(conn, m)
		_ = conn.Close()
		switch {
		case err != nil: // the machine was kept, or has ended: then nothing opens
			continue
		case op == guest.PowerOff:
			return nil
		case op == guest.Reboot:
			g.Remember(nil)
			m = newMachine(g)
		}
	}
}

type machine struct {
	*fake.Guest
	memory
}

// memory is all that a guest remembers.
type memory struct {
	Boot   string
	Blocks []byte
}

// newMachine boots, or goes on where a snapshot was taken.
func newMachine(g *fake.Guest) *machine {
	m := &machine{Guest: g, memory: memory{Boot: rand.Text()}}
	if text := g.Memory(); text == nil {
		m.remember()
	} else if err := json.Unmarshal(text, &m.memory); err != nil {
		panic(err) // what remember wrote
	}
	return m
}

func (m *machine) remember() {
	text, _ := json.Marshal(m.memory) // a string and bytes
	m.Remember(text)
}

func (m *machine) Keep(block []byte) error {
	m.Blocks = append(m.Blocks, block...)
	m.remember()
	return nil
}

func (m *machine) Kept() []byte { return m.Blocks }

func (m *machine) Look() (guest.Info, error) {
	info := guest.Info{
		BootID: m.Boot, Arch: m.Spec.Arch, CPUs: m.Spec.CPUs, MemoryMiB: m.Spec.MemoryMiB - 1,
		CommandLine: m.Spec.CommandLine, Networks: 1, Random: true,
	}
	for _, d := range m.Spec.Drives {
		st, err := os.Stat(d.Path)
		if err != nil {
			return info, err
		}
		info.Drives = append(info.Drives, guest.Drive{ID: d.ID, Bytes: st.Size(), ReadOnly: d.ReadOnly})
	}
	return info, nil
}

func (m *machine) ReadAt(drive string, p []byte, offset int64) error {
	return m.use(drive, func(f *os.File) error {
		_, err := f.ReadAt(p, offset)
		return err
	})
}

func (m *machine) WriteAt(drive string, p []byte, offset int64) error {
	return m.use(drive, func(f *os.File) error {
		_, err := f.WriteAt(p, offset)
		return err
	})
}

func (m *machine) use(drive string, do func(*os.File) error) error {
	for _, d := range m.Spec.Drives {
		if d.ID != drive {
			continue
		}
		flag := os.O_RDWR
		if d.ReadOnly {
			flag = os.O_RDONLY
		}
		f, err := os.OpenFile(d.Path, flag, 0)
		if err != nil {
			return err
		}
		return errors.Join(do(f), f.Close())
	}
	return fmt.Errorf("no drive %s", drive)
}

func (m *machine) Dial(string) (io.ReadWriteCloser, error) { return nil, errors.New("no network") }

func (m *machine) Say(text string) error {
	m.Console(text)
	return nil
}

func TestFaults(t *testing.T) {
	spec := vmm.Spec{Name: "box", Console: &strings.Builder{}}
	refused := fault.New(fault.Host, "", "no QEMU here")
	if _, err := (&fake.Driver{Fail: func(vmm.Spec) error { return refused }}).Start(t.Context(), spec); !errors.Is(err, refused) {
		t.Errorf("refused start: %v", err)
	}
	dead := errors.New("emulation failure")
	m, err := (&fake.Driver{Guest: func(*fake.Guest) error { return dead }}).Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(); !errors.Is(err, dead) || fault.CodeOf(err) != fault.Boot {
		t.Errorf("Wait of a machine that died: %v", err)
	}
}

func TestLinkServesOnceAndPowersOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &fake.Driver{Guest: fake.Link(func(c net.Conn) { _, _ = c.Write([]byte("hello")) })}
		m, err := driver.Start(t.Context(), vmm.Spec{Name: "box", Console: &strings.Builder{}})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := m.Link(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 8)
		if n, err := conn.Read(p); string(p[:n]) != "hello" {
			t.Errorf("read %q, %v", p[:n], err)
		}
		if err := m.Wait(); err != nil {
			t.Error(err)
		}
	})
}
