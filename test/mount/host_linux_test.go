package mount_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest/mount"
	"github.com/smolvm/smolvm/internal/share"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestOnThisComputerAsRoot mounts a folder of this computer on this computer,
// through the guest's relay and the host's server, and runs the other cases
// there. It needs root and /dev/fuse; the VM tests do the same in a guest.
func TestOnThisComputerAsRoot(t *testing.T) {
	if *folder != "" || os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skip(err)
	} else {
		f.Close()
	}
	top := t.TempDir()
	source, target := filepath.Join(top, "source"), filepath.Join(top, "target")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	server := share.New(share.Owner{}, time.Now)
	if err := server.Add(share.Mount{ID: "0", Host: source}); err != nil {
		t.Fatal(err)
	}
	host, guest := pair(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(host) }()
	table := mount.Table{
		Folder: filepath.Join(top, "all"),
		Open: func(context.Context) (*mount.Stream, error) {
			return &mount.Stream{In: guest, Out: guest}, nil
		},
	}
	err := table.Set(t.Context(), []wire.Mount{{ID: "0", Target: target}})
	if err == nil {
		// Another process, as this one serves it: Go stands still between fork and exec.
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-folder", target)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
	}
	if syscall.Geteuid() == 0 {
		_ = table.Set(context.Background(), nil)
		_ = syscall.Unmount(table.Folder, syscall.MNT_DETACH)
	}
	if err != nil {
		t.Skipf("this computer does not let root mount: %v", err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// pair are two ends of a stream.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	a, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
