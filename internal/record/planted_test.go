package record

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
)

// plants are what an attacker may put at a path; each returns a file that must
// stay as it is.
var plants = map[string]func(path, victim string) error{
	"symlink":          func(path, victim string) error { return os.Symlink(victim, path) },
	"dangling symlink": func(path, victim string) error { return os.Symlink(victim+"-missing", path) },
	"fifo":             func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
	"folder":           func(path, _ string) error { return os.Mkdir(path, 0o777) },
}

// plant replaces path and returns a check that the victim was left alone.
func plant(t *testing.T, kind, path string) (check func()) {
	t.Helper()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o644), os.RemoveAll(path), plants[kind](path, victim)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if got, err := os.ReadFile(victim); err != nil || string(got) != "mine" {
			t.Errorf("a file elsewhere was changed: %q, %v", got, err)
		}
		if _, err := os.Lstat(victim + "-missing"); err == nil {
			t.Error("a file elsewhere was made")
		}
	}
}

func TestPlantedRecord(t *testing.T) {
	for kind := range plants {
		t.Run(kind, func(t *testing.T) {
			b := newBook(t, "")
			r := create(t, b, "one")
			check := plant(t, kind, b.Folder("one").Record())
			defer check()
			_, err := b.Read("one")
			wantFault(t, err, fault.Storage, "one")
			if names, err := b.Names(); err != nil || len(names) != 1 {
				t.Errorf("a broken sandbox is not listed: %q, %v", names, err)
			}
			err = b.Write(r)
			if kind == "folder" {
				wantFault(t, err, fault.Storage)
			} else if err != nil {
				t.Errorf("write over it: %v", err)
			}
			if err := b.Remove("one"); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, b)
		})
	}
}

func TestPlantedLock(t *testing.T) {
	for kind := range plants {
		t.Run(kind, func(t *testing.T) {
			b := newBook(t, "")
			create(t, b, "one")
			check := plant(t, kind, b.Folder("one").LockFile())
			defer check()
			if lock, err := b.Lock("one"); err == nil {
				t.Errorf("it was locked: %v", lock)
			}
			if b.Held("one") {
				t.Error("it counts as held")
			}
			if err := b.Remove("one"); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, b)
		})
	}
}

// TestPlantedFolder has something else where a sandbox's folder would be.
func TestPlantedFolder(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "other")
	outside := t.TempDir()
	inside := filepath.Join(outside, "record.json")
	if err := errors.Join(os.WriteFile(inside, []byte("{}"), 0o600), os.Symlink(outside, b.Folder("one").Dir())); err != nil {
		t.Fatal(err)
	}
	_, err := b.Read("one")
	wantFault(t, err, fault.Storage, "not a folder")
	_, err = b.Create("one")
	wantFault(t, err, fault.Conflict, "already")
	if err := b.Remove("one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(inside); err != nil {
		t.Errorf("removing the link removed what it pointed to: %v", err)
	}
}

func TestPlantedBook(t *testing.T) {
	for _, name := range []string{"sandboxes", "run"} {
		for kind := range plants {
			if kind == "folder" {
				continue
			}
			home := t.TempDir()
			check := plant(t, kind, filepath.Join(home, name))
			b, err := Open(home)
			if err == nil {
				_, err = b.Create("one")
			}
			wantFault(t, err, fault.Storage, name, "not a folder")
			check()
		}
	}
}

// TestForeignFolder needs another user's folder, which only root can make.
func TestForeignFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: gives a folder to another user")
	}
	home := t.TempDir()
	dir := filepath.Join(home, "sandboxes")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(home)
	wantFault(t, err, fault.Storage, "another user", "12345")
}

// TestPermissions works under the loosest umask and repairs loose folders.
func TestPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	b := newBook(t, "")
	create(t, b, "one")
	f := b.Folder("one")
	if _, err := f.MakeRunDir(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{
		b.dir: 0o700, f.Dir(): 0o700, f.SSH(): 0o700, f.RunDir(): 0o700, filepath.Dir(f.RunDir()): 0o700,
		f.Record(): 0o600, f.LockFile(): 0o600, b.gatePath(): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if err := os.Chmod(b.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(b.home); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(b.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a book that all can write stays so: %v, %v", info.Mode(), err)
	}
}

// TestReadOnlyHome lists where nothing can be written, and says so on create.
func TestReadOnlyHome(t *testing.T) {
	home := t.TempDir()
	if err := os.Chmod(home, 0o500); err != nil {
		t.Fatal(err)
	}
	b := newBook(t, home)
	if names, err := b.Names(); err != nil || len(names) > 0 || b.Held("one") {
		t.Errorf("%q, %v", names, err)
	}
	if os.Getuid() == 0 {
		t.Skip("needs an unprivileged user: root writes everywhere")
	}
	_, err := b.Create("one")
	wantFault(t, err, fault.Storage, home)
}

// TestHomes makes a sandbox with a working socket below unusual paths.
func TestHomes(t *testing.T) {
	for name, tail := range map[string]string{
		"spaces": "a folder  with spaces", "unicode": "Größe 日本語 🙂", "quotes": `it's "so"`, "newline": "a\nb", "glob": "[a-z]*?",
		"long": strings.Repeat("d23456789/", 30) + "end", "symlink": "link/home",
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(parent, "real"), 0o700), os.Symlink("real", filepath.Join(parent, "link"))); err != nil {
				t.Fatal(err)
			}
			b := newBook(t, filepath.Join(parent, tail))
			b.temp = shortTemp(t)
			create(t, b, "one")
			if _, err := b.Read("one"); err != nil {
				t.Fatal(err)
			}
			dir, err := b.Folder("one").MakeRunDir()
			if err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(dir, strings.Repeat("s", maxSocketName))
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatalf("a path of %d bytes: %v", len(socket), err)
			}
			defer l.Close()
			if err := b.Remove("one"); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(dir); err == nil {
				t.Error("the sockets outlive the sandbox")
			}
			nothingLeft(t, b)
		})
	}
}

// shortTemp is a temporary folder whose path is short enough for sockets, as
// /tmp is.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestPlantedRunDir has another user's trap at the far place for sockets.
func TestPlantedRunDir(t *testing.T) {
	b := newBook(t, filepath.Join(t.TempDir(), strings.Repeat("d23456789/", 12)))
	b.temp = shortTemp(t)
	create(t, b, "one")
	f := b.Folder("one")
	if !strings.HasPrefix(f.RunDir(), b.temp) {
		t.Fatalf("%s is not the far place", f.RunDir())
	}
	check := plant(t, "symlink", f.farRunDirs())
	_, err := f.MakeRunDir()
	wantFault(t, err, fault.Storage, f.farRunDirs())
	check()
}

func TestRunDirsDiffer(t *testing.T) {
	dirs := map[string]string{}
	for _, home := range []string{"/home/a/.smolvm", "/home/b/.smolvm", "/" + strings.Repeat("long/", 40), "/" + strings.Repeat("gnol/", 40)} {
		b := &Book{home: home, dir: filepath.Join(home, "sandboxes"), temp: "/tmp"}
		for _, name := range []string{"one", "two"} {
			dir := b.Folder(name).RunDir()
			if other, taken := dirs[dir]; taken {
				t.Errorf("%s of %s is also that of %s", dir, home+name, other)
			}
			dirs[dir] = home + name
		}
	}
}

// TestCreateOnce lets many make one sandbox at once.
func TestCreateOnce(t *testing.T) {
	b := newBook(t, "")
	var wg sync.WaitGroup
	results := make(chan error, 20)
	for range cap(results) {
		wg.Go(func() {
			_, err := b.Create("one")
			results <- err
		})
	}
	wg.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
		} else if fault.CodeOf(err) != fault.Conflict {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of them succeeded", won)
	}
}

// TestLookingDoesNotDisturb asks for the lock's state all the time while it is
// taken and released: no taker may ever be told that it is in use.
func TestLookingDoesNotDisturb(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "one")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					b.Held("one")
				}
			}
		})
	}
	for range 200 {
		lock, err := b.Lock("one")
		if err != nil {
			t.Error(err)
			break
		}
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}
