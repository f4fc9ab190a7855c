package unpack

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// A file system as FAT is: growing a file writes zeros, everything counts as
// data, and nothing can be given back. An unprivileged user can mount nothing of
// the kind: what a user namespace may mount (tmpfs, overlayfs) has holes, FAT
// needs a block device, and /dev/fuse is root's on many hosts.
func TestFileSystemWithoutHolesNeedsRoot(t *testing.T) {
	data := sample()
	archive, ix := compress(t, data)
	out, err := os.OpenFile(filepath.Join(withoutHoles(t), "disk"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := Expand(t.Context(), bytes.NewReader(archive), ix, out, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, out), data) {
		t.Error("the bytes differ")
	}
	if bad, err := Verify(t.Context(), ix, out); err != nil || len(bad) > 0 {
		t.Errorf("Verify = %v, %v", bad, err)
	}
	rewritten(t, out, archive, ix, data)
}

// rewritten has a second run go over the file after all was overwritten.
func rewritten(t *testing.T, out *os.File, archive []byte, ix Index, data []byte) {
	t.Helper()
	if _, err := out.WriteAt(bytes.Repeat([]byte("old "), len(data)/4), 0); err != nil {
		t.Fatal(err)
	}
	decoder, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	w, err := NewWriter(decoder, ix, out)
	if err != nil {
		t.Fatal(err)
	}
	if got := missing(t, w); !slices.Equal(got, []int{0, 1, 2, 3}) {
		t.Errorf("missing are %v", got)
	}
	for i := range ix.Frames {
		if err := w.Packed(t.Context(), i, part(archive, ix, i)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(content(t, out), data) {
		t.Error("old bytes show through")
	}
	if got := missing(t, w); len(got) > 0 {
		t.Errorf("%v are missing", got)
	}
}

// withoutHoles mounts a file system with one empty file, "disk".
func withoutHoles(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system without holes")
	}
	folder := t.TempDir()
	root := &fs.Inode{}
	options := &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}}
	options.OnAdd = func(ctx context.Context) {
		root.AddChild("disk", root.NewPersistentInode(ctx, &solid{}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
	}
	server, err := fs.Mount(folder, root, options)
	if err != nil {
		t.Skipf("this root may not mount FUSE: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return folder
}

// solid is a file in memory that cannot have holes.
type solid struct{ fs.MemRegularFile }

func (*solid) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}
