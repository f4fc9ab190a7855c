// Package mount_test holds a folder to what programs expect of a file system. It
// runs where the folder is: in a guest, once on a mount of the host and once on
// the guest's own disk. Without -folder there is nothing to look at.
package mount_test

import (
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

var folder = flag.String("folder", "", "the folder to look at")

// place makes a folder for one case.
func place(t *testing.T) string {
	t.Helper()
	if *folder == "" {
		t.Skip("no -folder: the VM tests give one in a guest")
	}
	dir, err := os.MkdirTemp(*folder, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestPOSIX runs the cases of go-fuse.
func TestPOSIX(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if name == "FcntlFlockLocksFile" { // has two locks of one process conflict, which they never do
			continue
		}
		t.Run(name, func(t *testing.T) { posixtest.All[name](t, place(t)) })
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTimesAreKeptToTheNanosecond sets times of a file, a folder and a link.
func TestTimesAreKeptToTheNanosecond(t *testing.T) {
	dir := place(t)
	write(t, filepath.Join(dir, "file"), "")
	want := time.Unix(1_600_000_000, 123_456_789)
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	stamp := []unix.Timespec{unix.NsecToTimespec(want.UnixNano()), unix.NsecToTimespec(want.UnixNano())}
	for _, name := range []string{"file", "folder", "link"} {
		path := filepath.Join(dir, name)
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, stamp, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s: %v, %v", name, info.ModTime(), err)
		}
	}
}

// TestModes keeps every bit that a user may set.
func TestModes(t *testing.T) {
	dir := place(t)
	path := filepath.Join(dir, "file")
	write(t, path, "")
	for _, mode := range []os.FileMode{0o755, 0o600, 0o444, 0o640} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, mode)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, "object"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444) // as git does
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("content")
	if err = errors.Join(err, f.Close()); err != nil {
		t.Error(err)
	}
}

// TestRenameOverOpenFile is how editors save while somebody reads.
func TestRenameOverOpenFile(t *testing.T) {
	dir := place(t)
	old, next := filepath.Join(dir, "file"), filepath.Join(dir, "next")
	write(t, old, "old")
	f, err := os.Open(old)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write(t, next, "new")
	if err := os.Rename(next, old); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "old" {
		t.Errorf("the open file reads %q, %v", buf, err)
	}
	if got, err := os.ReadFile(old); err != nil || string(got) != "new" {
		t.Errorf("the name reads %q, %v", got, err)
	}
}

// TestAppendersDoNotLose has several files open for appending to one.
func TestAppendersDoNotLose(t *testing.T) {
	dir := place(t)
	path := filepath.Join(dir, "log")
	var writing sync.WaitGroup
	for range 4 {
		writing.Go(func() {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for range 50 {
				if _, err := f.WriteString("0123456789abcdef\n"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	got, err := os.ReadFile(path)
	if err != nil || len(got) != 4*50*17 || strings.Count(string(got), "0123456789abcdef\n") != 200 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestManyAtOnce makes, renames, links and removes files from many sides.
func TestManyAtOnce(t *testing.T) {
	dir := place(t)
	var working sync.WaitGroup
	for i := range 8 {
		working.Go(func() {
			own := filepath.Join(dir, string(rune('a'+i)))
			for range 25 {
				err := errors.Join(
					os.MkdirAll(filepath.Join(own, "x", "y"), 0o755),
					os.WriteFile(filepath.Join(own, "x", "y", "file"), []byte("text"), 0o644),
					os.Rename(filepath.Join(own, "x"), filepath.Join(own, "z")),
					os.Link(filepath.Join(own, "z", "y", "file"), filepath.Join(own, "again")),
				)
				got, readErr := os.ReadFile(filepath.Join(own, "again"))
				if err = errors.Join(err, readErr, os.RemoveAll(own)); err != nil || string(got) != "text" {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	working.Wait()
}

// TestSharedMemoryOfFiles writes through a mapping and reads through the file.
func TestSharedMemoryOfFiles(t *testing.T) {
	path := filepath.Join(place(t), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 16); err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(mapped[60_000:], "through memory")
	err = errors.Join(unix.Msync(mapped, unix.MS_SYNC), unix.Munmap(mapped))
	buf := make([]byte, 14)
	if _, readErr := f.ReadAt(buf, 60_000); errors.Join(err, readErr) != nil || string(buf) != "through memory" {
		t.Errorf("%q, %v, %v", buf, err, readErr)
	}
}
