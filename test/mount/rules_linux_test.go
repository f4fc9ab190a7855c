package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rule is one rule of a system call, as POSIX and Linux's manual state it. do
// works in a folder that has a file, a folder with a file in it, links to both, one
// that loops, and a pipe; it gives the call's error.
type rule struct {
	name string
	want error
	do   func() error
}

// stage makes what the rules work on and goes there.
func stage(t *testing.T) {
	t.Helper()
	t.Chdir(place(t))
	write(t, "file", "content")
	err := errors.Join(
		os.Mkdir("dir", 0o755), os.Symlink("file", "link"), os.Symlink("dir", "dirlink"), os.Symlink("loop", "loop"),
		os.Symlink("none", "dangling"), unix.Mkfifo("pipe", 0o644), os.Mkdir("empty", 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	write(t, "dir/inner", "x")
}

func rules() []rule {
	long := strings.Repeat("n", 256)
	open := func(path string, flags int) func() error {
		return func() error {
			fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		}
	}
	rename := func(from, to string) func() error { return func() error { return unix.Rename(from, to) } }
	rename2 := func(from, to string, flags uint) func() error {
		return func() error { return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags) }
	}
	link := func(from, to string) func() error { return func() error { return unix.Link(from, to) } }
	mkdir := func(path string) func() error { return func() error { return unix.Mkdir(path, 0o755) } }
	rmdir := func(path string) func() error { return func() error { return unix.Rmdir(path) } }
	unlink := func(path string) func() error { return func() error { return unix.Unlink(path) } }
	symlink := func(to, path string) func() error { return func() error { return unix.Symlink(to, path) } }
	truncate := func(path string, n int64) func() error { return func() error { return unix.Truncate(path, n) } }
	chmod := func(path string, mode uint32) func() error { return func() error { return unix.Chmod(path, mode) } }
	stat := func(path string) func() error {
		return func() error { return unix.Stat(path, new(unix.Stat_t)) }
	}
	return []rule{
		{"open: none", unix.ENOENT, open("none", 0)},
		{"open: below a file", unix.ENOTDIR, open("file/x", 0)},
		{"open: long name", unix.ENAMETOOLONG, open(long, 0)},
		{"open: circle of links", unix.ELOOP, open("loop", 0)},
		{"open: link, not to be followed", unix.ELOOP, open("link", unix.O_NOFOLLOW)},
		{"open: folder for writing", unix.EISDIR, open("dir", unix.O_WRONLY)},
		{"open: file as a folder", unix.ENOTDIR, open("file", unix.O_DIRECTORY)},
		{"open: exclusively what is there", unix.EEXIST, open("file", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)},
		{"open: exclusively a dangling link", unix.EEXIST, open("dangling", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)},
		{"open: make what a link names", nil, open("dangling", unix.O_CREAT|unix.O_WRONLY)},
		{"open: pipe without a reader", unix.ENXIO, open("pipe", unix.O_WRONLY|unix.O_NONBLOCK)},
		{"open: for reading, truncated", nil, open("file", unix.O_RDWR|unix.O_TRUNC)},
		{"mkdir: there is one", unix.EEXIST, mkdir("dir")},
		{"mkdir: there is a dangling link", unix.EEXIST, mkdir("dangling")},
		{"mkdir: in nothing", unix.ENOENT, mkdir("none/x")},
		{"mkdir: below a file", unix.ENOTDIR, mkdir("file/x")},
		{"mkdir: long name", unix.ENAMETOOLONG, mkdir(long)},
		{"rmdir: not empty", unix.ENOTEMPTY, rmdir("dir")},
		{"rmdir: a file", unix.ENOTDIR, rmdir("file")},
		{"rmdir: a link to a folder", unix.ENOTDIR, rmdir("dirlink")},
		{"rmdir: the folder itself", unix.EINVAL, rmdir("empty/.")},
		{"rmdir: the folder above", unix.ENOTEMPTY, rmdir("dir/..")},
		{"rmdir: none", unix.ENOENT, rmdir("none")},
		{"rmdir: empty", nil, rmdir("empty")},
		{"unlink: a folder", unix.EISDIR, unlink("dir")},
		{"unlink: none", unix.ENOENT, unlink("none")},
		{"unlink: below a file", unix.ENOTDIR, unlink("file/x")},
		{"unlink: a dangling link", nil, unlink("dangling")},
		{"unlink: a pipe", nil, unlink("pipe")},
		{"symlink: there is one", unix.EEXIST, symlink("x", "link")},
		{"symlink: to nothing", unix.ENOENT, symlink("", "new")},
		{"symlink: long target", nil, symlink(strings.Repeat("t/", 1500), "new")},
		{"link: there is one", unix.EEXIST, link("file", "link")},
		{"link: of none", unix.ENOENT, link("none", "new")},
		{"link: of a folder", unix.EPERM, link("dir", "new")},
		{"link: below a file", unix.ENOTDIR, link("file", "file/x")},
		{"link: of a link", nil, link("dangling", "new")},
		{"rename: none", unix.ENOENT, rename("none", "new")},
		{"rename: into itself", unix.EINVAL, rename("dir", "dir/x")},
		{"rename: file over a folder", unix.EISDIR, rename("file", "empty")},
		{"rename: folder over a file", unix.ENOTDIR, rename("dir", "file")},
		{"rename: folder over a full one", unix.ENOTEMPTY, rename("empty", "dir")},
		{"rename: folder over an empty one", nil, rename("dir", "empty")},
		{"rename: file over a file", nil, rename("dir/inner", "file")},
		{"rename: a link, not what it names", nil, rename("dirlink", "new")},
		{"rename: over a loop", nil, rename("file", "loop")},
		{"rename: long name", unix.ENAMETOOLONG, rename("file", long)},
		{"rename: the folder itself", unix.EBUSY, rename("dir/.", "new")},
		{"renameat2: not over what is there", unix.EEXIST, rename2("file", "link", unix.RENAME_NOREPLACE)},
		{"renameat2: exchanged", nil, rename2("file", "dir", unix.RENAME_EXCHANGE)},
		{"renameat2: exchanged with none", unix.ENOENT, rename2("file", "none", unix.RENAME_EXCHANGE)},
		{"truncate: negative", unix.EINVAL, truncate("file", -1)},
		{"truncate: a folder", unix.EISDIR, truncate("dir", 0)},
		{"truncate: none", unix.ENOENT, truncate("none", 0)},
		{"truncate: grown", nil, truncate("file", 1<<20)},
		{"chmod: none", unix.ENOENT, chmod("none", 0o644)},
		{"chmod: a dangling link", unix.ENOENT, chmod("dangling", 0o644)},
		{"chmod: circle of links", unix.ELOOP, chmod("loop", 0o644)},
		{"chmod: nothing allowed", nil, chmod("file", 0)},
		{"stat: below a file", unix.ENOTDIR, stat("file/x")},
		{"stat: a folder, with a slash", nil, stat("dirlink/")},
		{"stat: a file, with a slash", unix.ENOTDIR, stat("file/")},
		{"readlink: of a file", unix.EINVAL, func() error { _, err := unix.Readlink("file", make([]byte, 9)); return err }},
		{"mkfifo: there is one", unix.EEXIST, func() error { return unix.Mkfifo("pipe", 0o644) }},
		{"mknod: a file", nil, func() error { return unix.Mknod("new", unix.S_IFREG|0o644, 0) }},
		{"chdir: a file", unix.ENOTDIR, func() error { return unix.Chdir("file") }},
	}
}

// TestRules checks each call's error, on a stage of its own.
func TestRules(t *testing.T) {
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			stage(t)
			if err := r.do(); !errors.Is(err, r.want) {
				t.Errorf("%v, want %v", err, r.want)
			}
		})
	}
}

// TestPermissionRules takes rights away, which hold for all but root.
func TestPermissionRules(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may do everything")
	}
	for _, c := range []struct {
		name, locked string
		mode         os.FileMode
		do           func() error
	}{
		{"read", "file", 0o200, func() error { _, err := os.ReadFile("file"); return err }},
		{"write", "file", 0o400, func() error { return os.WriteFile("file", nil, 0) }},
		{"make", "dir", 0o500, func() error { return os.WriteFile("dir/new", nil, 0o644) }},
		{"remove", "dir", 0o500, func() error { return unix.Unlink("dir/inner") }},
		{"move out", "dir", 0o500, func() error { return unix.Rename("dir/inner", "new") }},
		{"list", "dir", 0o300, func() error { _, err := os.ReadDir("dir"); return err }},
		{"look", "dir", 0o600, func() error { return unix.Stat("dir/inner", new(unix.Stat_t)) }},
		{"access", "file", 0o400, func() error { return unix.Access("file", unix.W_OK) }},
		{"run", "file", 0o600, func() error { return unix.Access("file", unix.X_OK) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			stage(t)
			if err := os.Chmod(c.locked, c.mode); err != nil {
				t.Fatal(err)
			}
			if err := c.do(); !errors.Is(err, unix.EACCES) {
				t.Errorf("%v, want %v", err, unix.EACCES)
			}
			_ = os.Chmod(c.locked, 0o755)
		})
	}
}

// TestTimesFollowChanges checks which call marks which time: m of content, c of
// attributes.
func TestTimesFollowChanges(t *testing.T) {
	for _, c := range []struct {
		name, path, marked string
		do                 func() error
	}{
		{"write", "file", "mc", func() error { return os.WriteFile("file", []byte("other"), 0) }},
		{"truncate", "file", "mc", func() error { return unix.Truncate("file", 1) }},
		{"chmod", "file", "c", func() error { return unix.Chmod("file", 0o600) }},
		{"link", "file", "c", func() error { return unix.Link("file", "new") }},
		{"make in", "dir", "mc", func() error { return os.WriteFile("dir/new", nil, 0o644) }},
		{"mkdir in", "dir", "mc", func() error { return unix.Mkdir("dir/new", 0o755) }},
		{"symlink in", "dir", "mc", func() error { return unix.Symlink("x", "dir/new") }},
		{"unlink in", "dir", "mc", func() error { return unix.Unlink("dir/inner") }},
		{"rename from", "dir", "mc", func() error { return unix.Rename("dir/inner", "new") }},
		{"rename to", "dir", "mc", func() error { return unix.Rename("file", "dir/new") }},
		{"link in", "dir", "mc", func() error { return unix.Link("file", "dir/new") }},
		{"failed unlink in", "dir", "", func() error { _ = unix.Unlink("dir/none"); return nil }},
		{"failed mkdir in", "dir", "", func() error { _ = unix.Mkdir("dir/inner", 0o755); return nil }},
		{"stat", "file", "", func() error { return unix.Stat("file", new(unix.Stat_t)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			stage(t)
			var before, after unix.Stat_t
			err := unix.Stat(c.path, &before)
			time.Sleep(20 * time.Millisecond) // more than a tick of the file system's clock
			if err = errors.Join(err, c.do(), unix.Stat(c.path, &after)); err != nil {
				t.Fatal(err)
			}
			marked := ""
			if after.Mtim != before.Mtim {
				marked = "m"
			}
			if after.Ctim != before.Ctim {
				marked += "c"
			}
			if marked != c.marked {
				t.Errorf("marked %q, want %q", marked, c.marked)
			}
		})
	}
}

// TestCountsOfLinks follows the number of names of a file and of folders.
func TestCountsOfLinks(t *testing.T) {
	stage(t)
	count := func(path string) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return uint64(st.Nlink)
	}
	start := count("dir")
	err := errors.Join(unix.Link("file", "second"), unix.Link("second", "dir/third"), unix.Mkdir("dir/below", 0o755))
	if err != nil || count("file") != 3 || count("dir/third") != 3 {
		t.Errorf("%d names, %v", count("file"), err)
	}
	if grown := count("dir"); grown != start && grown != start+1 { // btrfs does not count folders
		t.Errorf("%d links of a folder that had %d", grown, start)
	}
	err = errors.Join(unix.Unlink("file"), unix.Rename("second", "dir/third"), unix.Unlink("second"))
	if err != nil || count("dir/third") != 1 { // renaming one name over another of the same file does nothing
		t.Errorf("%d names left, %v", count("dir/third"), err)
	}
}

// TestFilesWithoutNames go on until they are closed.
func TestFilesWithoutNames(t *testing.T) {
	stage(t)
	f, err := os.OpenFile("file", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove("file"); err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("more"), 7)
	err = errors.Join(err, f.Truncate(9), f.Chmod(0o600))
	got := make([]byte, 9)
	_, readErr := f.ReadAt(got, 0)
	if errors.Join(err, readErr) != nil || string(got) != "contentmo" {
		t.Errorf("%q, %v, %v", got, err, readErr)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 9 || st.Mode() != 0o600 || st.Sys().(*syscall.Stat_t).Nlink != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := os.Stat(filepath.Join(".", "file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its name: %v", err)
	}
}
