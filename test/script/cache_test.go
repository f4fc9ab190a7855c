package script_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// object is the folder of an asset in the cache.
func object(ts *testscript.TestScript, asset string) string {
	key := theSite(ts).asset(ts, asset).Index.SHA256
	return filepath.Join(ts.Getenv("SMOLVM_HOME"), "store", "objects", key)
}

// partialOf is the folder of an asset that is being downloaded.
func partialOf(ts *testscript.TestScript, asset string) string {
	key := theSite(ts).asset(ts, asset).Index.SHA256
	return filepath.Join(ts.Getenv("SMOLVM_HOME"), "store", "partial", key)
}

// partial ASSET fails when no part of an asset is kept for a later run.
func partial(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(filepath.Join(partialOf(ts, args[0]), "content"))
	if (err == nil && info.Size() > 0) == neg {
		ts.Fatalf("the partial of %s: %v", args[0], err)
	}
}

// spoil ASSET FRAME... changes a byte in frames of a small disk in the cache, and
// sets the time back, as somebody with a hex editor and touch could.
func spoil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: spoil ASSET FRAME...")
	}
	path := filepath.Join(object(ts, args[0]), "content")
	info, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Chmod(path, 0o600))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	ts.Check(err)
	for _, word := range args[1:] {
		frame, err := strconv.ParseInt(word, 10, 64)
		ts.Check(err)
		_, err = file.WriteAt([]byte("spoilt"), frame*64<<10+9000)
		ts.Check(err)
	}
	ts.Check(errors.Join(file.Close(), os.Chmod(path, 0o444), os.Chtimes(path, time.Time{}, info.ModTime())))
}

// plant KIND PATH puts something that was not expected in the place of a file or
// folder of the state: a link to the folder "victim", a hard link to a file in it,
// a FIFO, or a folder. {base} in PATH is the key of that asset.
func plant(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: plant KIND PATH")
	}
	key := theSite(ts).asset(ts, "base").Index.SHA256
	path := filepath.Join(ts.Getenv("SMOLVM_HOME"), strings.ReplaceAll(args[1], "{base}", key))
	victim := filepath.Join(ts.Getenv("WORK"), "victim")
	ts.Check(os.MkdirAll(victim, 0o755))
	treasure := filepath.Join(victim, "treasure")
	ts.Check(os.WriteFile(treasure, []byte("mine\n"), 0o644))
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.RemoveAll(path))
	kinds := map[string]func() error{
		"link":     func() error { return os.Symlink(victim, path) },
		"filelink": func() error { return os.Symlink(treasure, path) },
		"hardlink": func() error { return os.Link(treasure, path) },
		"fifo":     func() error { return syscall.Mkfifo(path, 0o644) },
		"folder":   func() error { return os.Mkdir(path, 0o755) },
	}
	if kinds[args[0]] == nil {
		ts.Fatalf("unknown kind %s", args[0])
	}
	ts.Check(kinds[args[0]]())
}

// age ASSET makes the partial of an asset two days old.
func age(ts *testscript.TestScript, _ bool, args []string) {
	then := time.Now().Add(-48 * time.Hour)
	ts.Check(filepath.WalkDir(partialOf(ts, args[0]), func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, then, then))
	}))
}

// sandbox NAME [ASSET...] makes a sandbox that is stopped and whose disks are
// missing; it stands on the assets.
func sandbox(ts *testscript.TestScript, _ bool, args []string) {
	book, err := record.Open(ts.Getenv("SMOLVM_HOME"))
	ts.Check(err)
	lock, err := book.Create(args[0])
	ts.Check(err)
	image := record.Image{Release: "1.0.0", Kernel: "/k", KernelVersion: "6.12.0-test", StandIn: "nobody"}
	for _, name := range args[1:] {
		asset := theSite(ts).asset(ts, name)
		image.Layers = append(image.Layers, record.Layer{
			Name: name, Path: filepath.Join(object(ts, name), "content"), SHA256: asset.Content.SHA256,
		})
	}
	ts.Check(book.Write(record.Record{
		Name: args[0], ID: "id-" + args[0], Preset: "claude-code", Arch: "amd64", VMM: "qemu", Accel: "tcg",
		Agent: record.Agent{Name: "Claude Code", Version: "1.2.3"}, Launch: []string{"claude"},
		Image: image, CPUs: 1, MemoryMiB: 1024, DiskBytes: 8 << 30, Mode: wire.ModeRun, State: record.Created,
		Created: time.Now().Add(-2 * time.Hour),
	}))
	ts.Check(os.WriteFile(book.Folder(args[0]).Console(), []byte("boot line\n\x1b[31mred\x1b[0m line\n"), 0o600))
	ts.Check(lock.Release())
}

// cached fails when a file in the cache is left over or half done; ! cached
// when the cache holds an expanded file.
func cached(ts *testscript.TestScript, neg bool, _ []string) {
	store := filepath.Join(ts.Getenv("SMOLVM_HOME"), "store")
	var contents, temporary []string
	err := filepath.WalkDir(store, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || entry.IsDir():
		case strings.HasPrefix(path, filepath.Join(store, "partial")):
		case strings.HasPrefix(path, filepath.Join(store, "tmp")):
			temporary = append(temporary, path)
		case entry.Name() == "content":
			contents = append(contents, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	if len(temporary) > 0 {
		ts.Fatalf("left over: %v", temporary)
	}
	if neg != (len(contents) == 0) {
		ts.Fatalf("the cache holds %v", contents)
	}
}

// empty DIR... fails when a folder of the state has anything in it but its own lock.
func empty(ts *testscript.TestScript, neg bool, args []string) {
	for _, dir := range args {
		entries, err := os.ReadDir(filepath.Join(ts.Getenv("SMOLVM_HOME"), dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ".gate" })
		if (len(entries) == 0) == neg {
			ts.Fatalf("%s holds %v", dir, entries)
		}
	}
}
