package firecracker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestRealSnapshot takes one machine through pause, snapshot and two restores at
// once. The guest is the conformance suite's.
func TestRealSnapshot(t *testing.T) {
	driver, kernel := realDriver(t)
	scratch := filepath.Join(t.TempDir(), "scratch")
	writeZeros(t, scratch, 1<<20)
	spec := func(scratch string) vmm.Spec {
		return vmm.Spec{
			Name: "snapshot", Arch: "amd64", Accel: vmm.KVM, CPUs: 1, MemoryMiB: 128, Kernel: kernel,
			CommandLine: "quiet " + wire.OptDrives + "=scratch", RunDir: t.TempDir(), Console: io.Discard,
			Drives: []vmm.Drive{{ID: "scratch", Path: scratch}},
		}
	}
	initrd := testInitrd(t)
	first := spec(scratch)
	first.Initrd = initrd
	m, err := driver.Start(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Kill() })
	c := openSession(t, m, 4*time.Minute)
	boot := c.look(t).BootID
	c.ask(t, guest.Request{Op: guest.Write, Drive: "scratch", Data: []byte("before")})

	kept := t.TempDir()
	s := m.(vmm.Snapshotter)
	if err := s.Snapshot(t.Context(), kept); err == nil {
		t.Error("a running machine was kept")
	}
	begun := time.Now()
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	t.Logf("paused and kept in %v", time.Since(begun))
	copies := []string{copyOf(t, scratch), copyOf(t, scratch)}
	if err := s.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run("GoesOn", func(t *testing.T) {
		c := openSession(t, m, time.Minute) // the old link ended with the snapshot
		if got := c.look(t).BootID; got != boot {
			t.Errorf("boot %s after a snapshot, want %s", got, boot)
		}
		c.ask(t, guest.Request{Op: guest.Write, Drive: "scratch", Data: []byte("behind")})
	})
	for _, name := range []string{stateName, memoryName, machineName} {
		if info, err := os.Stat(filepath.Join(kept, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	var all []vmm.Machine
	for _, path := range copies {
		again := spec(path)
		again.Initrd = initrd
		begun := time.Now()
		r, err := driver.Restore(t.Context(), again, kept)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Kill() })
		t.Logf("restored in %v", time.Since(begun))
		all = append(all, r)
	}
	for i, r := range all {
		c := openSession(t, r, time.Minute)
		if got := c.look(t).BootID; got != boot {
			t.Errorf("boot %s after a restore, want %s", got, boot)
		}
		if got := c.ask(t, guest.Request{Op: guest.Read, Drive: "scratch", N: 6}); string(got.Data) != "before" {
			t.Errorf("scratch of copy %d holds %q", i, got.Data)
		}
		own := fmt.Sprintf("copy %d", i)
		c.ask(t, guest.Request{Op: guest.Write, Drive: "scratch", Data: []byte(own)})
		if text, err := os.ReadFile(copies[i]); err != nil || string(text[:6]) != own {
			t.Errorf("copy %d of the scratch holds %q, %v", i, text[:6], err)
		}
	}
	for _, r := range append(all, m) {
		if err := r.Kill(); err != nil {
			t.Error(err)
		}
		if err := r.Wait(); err != nil {
			t.Errorf("Wait after Kill: %v", err)
		}
	}
}

// conversation is a session with the suite's guest.
type conversation struct {
	conn net.Conn
	in   *bufio.Reader
}

func openSession(t *testing.T, m vmm.Machine, patience time.Duration) *conversation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := m.Link(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &conversation{conn: conn, in: bufio.NewReader(conn)}
	line, err := c.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, wire.Magic) {
		t.Fatalf("greeting %q, %v", line, err)
	}
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *conversation) ask(t *testing.T, r guest.Request) guest.Answer {
	t.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.conn.SetDeadline(time.Now().Add(3 * time.Minute))
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	said, err := c.in.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a guest.Answer
	if err := json.Unmarshal(said, &a); err != nil || a.Error != "" {
		t.Fatalf("%s: %s, %v", r.Op, a.Error, err)
	}
	return a
}

func (c *conversation) look(t *testing.T) guest.Info {
	t.Helper()
	return *c.ask(t, guest.Request{Op: guest.Look}).Info
}

func writeZeros(t *testing.T, path string, n int) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
