//go:build linux

package faultdisk

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mounted shows a disk to this test. It skips where FUSE cannot be used.
func mounted(t *testing.T, d *Disk) string {
	t.Helper()
	if err := Usable(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	ok(t, d.Mount(dir))
	t.Cleanup(func() { ok(t, d.Unmount()) })
	return dir
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	ok(t, os.WriteFile(path, []byte(text), 0o644))
}

func syncPath(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	ok(t, err)
	ok(t, errors.Join(f.Sync(), f.Close()))
}

// Programs find an ordinary file system.
func TestMountedIsAFileSystem(t *testing.T) {
	d := New(Options{})
	dir := mounted(t, d)
	sub := filepath.Join(dir, "a", "b")
	ok(t, os.MkdirAll(sub, 0o755))
	write(t, sub+"/f", "text")
	ok(t, os.Chmod(sub+"/f", 0o444))
	ok(t, os.Link(sub+"/f", dir+"/g"))
	ok(t, os.Symlink("a/b/f", dir+"/link"))
	ok(t, syscall.Mkfifo(dir+"/fifo", 0o600))
	ok(t, os.Rename(sub+"/f", dir+"/a/moved"))
	ok(t, os.Remove(sub))
	raw, err := os.ReadFile(dir + "/a/moved")
	if err != nil || string(raw) != "text" {
		t.Errorf("%q, %v", raw, err)
	}
	if target, err := os.Readlink(dir + "/link"); err != nil || target != "a/b/f" {
		t.Errorf("%q, %v", target, err)
	}
	var st unix.Stat_t
	ok(t, unix.Stat(dir+"/g", &st))
	if st.Nlink != 2 || st.Mode != unix.S_IFREG|0o444 || st.Blocks != 8 {
		t.Errorf("%+v", st)
	}
	out, err := exec.CommandContext(t.Context(), "find", dir, "-mindepth", "1", "-printf", "%P %y %n\n").Output()
	lines := slices.Sorted(strings.Lines(string(out)))
	if got := strings.Join(lines, ""); err != nil || got != "a d 2\na/moved f 2\nfifo p 1\ng f 2\nlink l 1\n" {
		t.Errorf("%v: %s", err, got)
	}
	ok(t, os.RemoveAll(dir+"/a"))
	if err := os.Remove(dir + "/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestSparseFilesAndHoles(t *testing.T) {
	for _, sparse := range []bool{true, false} {
		d := New(Options{NoSparse: !sparse, Capacity: 8 << 20})
		dir := mounted(t, d)
		f, err := os.Create(dir + "/f")
		ok(t, err)
		ok(t, f.Truncate(1<<20))
		_, err = f.WriteAt(bytes.Repeat([]byte("x"), blockSize), 512<<10)
		ok(t, err)
		used := d.Used()
		data, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
		ok(t, err)
		if sparse && (used != blockSize || data != 512<<10) || !sparse && (used != 1<<20 || data != 0) {
			t.Errorf("sparse %v: %d bytes used, data at %d", sparse, used, data)
		}
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 512<<10, blockSize)
		if sparse && (err != nil || d.Used() != 0) || !sparse && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("sparse %v: punched: %v, %d bytes", sparse, err, d.Used())
		}
		if err := f.Truncate(16 << 20); sparse != (err == nil) {
			t.Errorf("sparse %v: longer than the disk: %v", sparse, err)
		}
		ok(t, f.Close())
		ok(t, os.Remove(dir+"/f"))
	}
}

// Every fault of the script reaches the program as the error it is.
func TestFaults(t *testing.T) {
	d := New(Options{NoLinks: true, Capacity: 1 << 20, Files: 40})
	dir := mounted(t, d)
	path := dir + "/f"
	write(t, path, "text")
	tests := map[string]struct {
		fault Fault
		do    func() error
	}{
		"create": {Fault{Kind: Create, Err: syscall.EROFS}, func() error { return os.WriteFile(dir+"/new", nil, 0o644) }},
		"mkdir":  {Fault{Kind: Mkdir, Err: syscall.EDQUOT}, func() error { return os.Mkdir(dir+"/d", 0o755) }},
		"write":  {Fault{Kind: Write, Err: syscall.EIO}, func() error { return os.WriteFile(path, []byte("x"), 0o644) }},
		"sync":   {Fault{Kind: Sync, Err: syscall.EIO}, func() error { f, _ := os.Open(path); defer f.Close(); return f.Sync() }},
		"folder": {Fault{Kind: SyncFolder, Err: syscall.EIO}, func() error { f, _ := os.Open(dir); defer f.Close(); return f.Sync() }},
		"rename": {Fault{Kind: Rename, Err: syscall.EACCES}, func() error { return os.Rename(path, path+"2") }},
		"unlink": {Fault{Kind: Unlink, Err: syscall.EPERM}, func() error { return os.Remove(path) }},
		"chmod":  {Fault{Kind: Attribute, Err: syscall.EPERM}, func() error { return os.Chmod(path, 0o600) }},
		"open":   {Fault{Kind: Open, Err: syscall.EMFILE}, func() error { _, err := os.Open(path); return err }},
		"list":   {Fault{Kind: ReadDir, Err: syscall.EIO}, func() error { _, err := os.ReadDir(dir); return err }},
		"space":  {Fault{Kind: StatDisk, Err: syscall.EIO}, func() error { var st unix.Statfs_t; return unix.Statfs(dir, &st) }},
		"any":    {Fault{Err: syscall.EIO}, func() error { return os.Truncate(path, 1) }},
		"links":  {Fault{Kind: Read, Err: syscall.EPERM}, func() error { return os.Link(path, dir+"/g") }},
	}
	for name, test := range tests {
		test.fault.Times = 1
		d.Fail(test.fault)
		if err := test.do(); !errors.Is(err, test.fault.Err) {
			t.Errorf("%s: %v, want %v", name, err, test.fault.Err)
		}
		d.Fail()
		write(t, path, "text")
	}
	d.Fail(Fault{Kind: Read, Path: "f", Skip: 1, Times: 1, Err: syscall.EIO})
	f, err := os.Open(path)
	ok(t, err)
	defer f.Close()
	for i, fails := range []bool{false, true, false} {
		if _, err := f.ReadAt(make([]byte, 4), 0); (err != nil) != fails {
			t.Errorf("read %d: %v", i, err)
		}
	}
}

func TestDiskGetsFull(t *testing.T) {
	d := New(Options{Capacity: 1 << 20, Files: 10})
	dir := mounted(t, d)
	err := os.WriteFile(dir+"/big", make([]byte, 2<<20), 0o644)
	if !errors.Is(err, syscall.ENOSPC) || d.Used() != 1<<20 {
		t.Errorf("%v, %d bytes used", err, d.Used())
	}
	ok(t, os.Remove(dir+"/big"))
	d.Fill(100_000)
	err = os.WriteFile(dir+"/big", make([]byte, 200_000), 0o644)
	if !errors.Is(err, syscall.ENOSPC) || d.Used() != 102400 {
		t.Errorf("filled: %v, %d bytes used", err, d.Used())
	}
	d.Fill(-1)
	ok(t, os.WriteFile(dir+"/big", make([]byte, 200_000), 0o644))
	for range 20 {
		if _, err = os.CreateTemp(dir, "x"); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("no inodes left: %v", err)
	}
	d.Fail(Fault{Kind: Write, Short: 1000, Times: 1})
	ok(t, os.WriteFile(dir+"/big", bytes.Repeat([]byte("x"), 3000), 0o644)) // goes on where the short write ended
	raw, err := os.ReadFile(dir + "/big")
	if err != nil || bytes.Count(raw, []byte("x")) != 3000 {
		t.Errorf("short write: %d, %v", len(raw), err)
	}
}

// An unlinked file that is open keeps its bytes and its space.
func TestUnlinkedWhileOpen(t *testing.T) {
	d := New(Options{})
	dir := mounted(t, d)
	f, err := os.Create(dir + "/f")
	ok(t, err)
	_, err = f.WriteString("still here")
	ok(t, err)
	ok(t, os.Remove(dir+"/f"))
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
	if err != nil || string(raw) != "still here" || d.Used() == 0 {
		t.Errorf("%q, %v, %d bytes", raw, err, d.Used())
	}
	ok(t, f.Close())
	for deadline := time.Now().Add(10 * time.Second); d.Used() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) { // the kernel tells of the close when it likes
			t.Fatalf("%d bytes are used", d.Used())
		}
	}
}

// A program is killed in place of a step; it and all after it are not done.
func TestStoppedAtAStep(t *testing.T) {
	d := New(Options{})
	dir := mounted(t, d)
	write(t, dir+"/before", "x")
	syncPath(t, dir+"/before")
	syncPath(t, dir)
	d.Steps()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "cd $0 && mkdir a && mkdir b && mkdir c; exec sleep 100", dir)
	started := make(chan struct{})
	d.StopAt(2, func() { <-started; _ = cmd.Process.Kill() })
	ok(t, cmd.Start())
	close(started)
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	if got := listing(d); got != "a/ before=x" {
		t.Errorf("left: %q", got)
	}
	if got := strings.Join(d.Steps(), ", "); got != "mkdir a, mkdir b" {
		t.Errorf("steps: %s", got)
	}
	if err := os.Mkdir(dir+"/d", 0o755); !errors.Is(err, syscall.EIO) {
		t.Errorf("after the stop: %v", err)
	}
	ok(t, d.PowerCut(nil))
	ok(t, os.Mkdir(dir+"/d", 0o755))
	if got := listing(d); got != "before=x d/" {
		t.Errorf("after the cut: %q", got)
	}
}

// A file is the same file after a power cut: number, times, blocks.
func TestCutKeepsIdentity(t *testing.T) {
	d := New(Options{})
	dir := mounted(t, d)
	write(t, dir+"/f", "text")
	syncPath(t, dir+"/f")
	syncPath(t, dir)
	var before, after unix.Stat_t
	ok(t, unix.Stat(dir+"/f", &before))
	ok(t, d.PowerCut(nil))
	ok(t, unix.Stat(dir+"/f", &after))
	before.Dev, after.Dev = 0, 0
	if before != after {
		t.Errorf("%+v, before %+v", after, before)
	}
}
