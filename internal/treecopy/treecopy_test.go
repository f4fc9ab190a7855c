package treecopy

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var longAgo = time.Unix(1_000_000_000, 123_456_789)

// carry copies through a pipe.
func carry(t *testing.T, source, dest, name string) (Summary, error) {
	t.Helper()
	place, err := Find(dest, name)
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := Send(writer, source, nil)
		_ = writer.CloseWithError(err)
		done <- err
	}()
	sum, err := Receive(reader, place, Options{})
	_ = reader.Close()
	return sum, errors.Join(err, <-done)
}

func write1(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode), os.Chtimes(path, longAgo, longAgo)); err != nil {
		t.Fatal(err)
	}
}

func TestTree(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), t.TempDir()
	write1(t, filepath.Join(from, "run.sh"), "#!/bin/sh\n", 0o755)
	write1(t, filepath.Join(from, "sub/odd \n\"name\xff"), "secret", 0o600)
	write1(t, filepath.Join(from, "locked/file"), "x", 0o400)
	write1(t, filepath.Join(from, "setuid"), "x", 0o755|fs.ModeSetuid)
	if err := errors.Join(
		os.Symlink("/etc/passwd", filepath.Join(from, "out")), os.Symlink("run.sh", filepath.Join(from, "in")),
		os.Mkdir(filepath.Join(from, "empty"), 0o711), os.Chmod(filepath.Join(from, "locked"), 0o555), syscall.Mkfifo(filepath.Join(from, "pipe"), 0o600),
		os.Chtimes(filepath.Join(from, "sub"), longAgo, longAgo),
	); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(from, "locked"), 0o755)
	sum, err := carry(t, from, to, "again")
	if err != nil {
		t.Fatal(err)
	}
	to = filepath.Join(to, "again")
	defer os.Chmod(filepath.Join(to, "locked"), 0o755)
	if sum.Files != 4 || sum.Folders != 4 || sum.Links != 2 || len(sum.Skipped) != 1 || !strings.HasPrefix(sum.Skipped[0], "pipe: ") {
		t.Errorf("summary %+v", sum)
	}
	for name, want := range map[string]fs.FileMode{
		"run.sh": 0o755, "sub/odd \n\"name\xff": 0o600, "locked": 0o555 | fs.ModeDir, "locked/file": 0o400, "setuid": 0o755,
		"empty": 0o711 | fs.ModeDir, "out": 0o777 | fs.ModeSymlink,
	} {
		info, err := os.Lstat(filepath.Join(to, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%q: %v, %v, want %v", name, info, err, want)
		}
	}
	for _, name := range []string{"run.sh", "sub"} {
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || !info.ModTime().Equal(longAgo) {
			t.Errorf("%s is of %v, %v", name, info.ModTime(), err)
		}
	}
	if target, _ := os.Readlink(filepath.Join(to, "out")); target != "/etc/passwd" {
		t.Errorf("the link leads to %q", target)
	}
}

func TestHolesStayHoles(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 40
	_, _ = f.WriteAt([]byte("middle"), size/2)
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	sum, err := carry(t, from, to, "disk")
	if err != nil || sum.Bytes > 1<<20 {
		t.Fatalf("%d bytes were sent, %v", sum.Bytes, err)
	}
	got, err := os.Open(filepath.Join(to, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	text := make([]byte, 6)
	_, _ = got.ReadAt(text, size/2)
	info, _ := got.Stat()
	if string(text) != "middle" || info.Size() != size || info.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
		t.Errorf("%q, %d bytes, %d blocks", text, info.Size(), info.Sys().(*syscall.Stat_t).Blocks)
	}
}

// stream is what a hostile sender says.
func stream(parts ...any) *bytes.Buffer {
	var out bytes.Buffer
	w := newWriter(&out)
	for _, part := range parts {
		switch p := part.(type) {
		case entry:
			_ = w.json(entryFrame, p)
		case string:
			_ = w.data(0, []byte(p))
		case ending:
			_ = w.json(closedFrame, p)
		case int64:
			_ = w.data(p, []byte("x"))
		}
	}
	_ = w.end(Summary{}, nil)
	return &out
}

// TestHostileSenders: whatever a guest sends, nothing outside of the target is
// touched, and no half file stays.
func TestHostileSenders(t *testing.T) {
	file := func(path string) entry { return entry{Path: name(path), Kind: regular, Size: 5} }
	dir := entry{Path: ".", Kind: folder, Mode: 0o755}
	for name, in := range map[string]*bytes.Buffer{
		"dots":               stream(dir, file("../evil"), "owned", ending{5}),
		"dots inside":        stream(dir, file("a/../../evil"), "owned", ending{5}),
		"absolute":           stream(dir, file("/evil"), "owned", ending{5}),
		"backtick nul":       stream(dir, file("a\x00b"), "owned", ending{5}),
		"empty":              stream(dir, file(""), "owned", ending{5}),
		"through a link":     stream(dir, entry{Path: "l", Kind: symlink, Target: ".."}, file("l/evil"), "owned", ending{5}),
		"through a far link": stream(dir, entry{Path: "l", Kind: symlink, Target: "/tmp"}, file("l/evil"), "owned", ending{5}),
		"folder over a link": stream(dir, entry{Path: "l", Kind: symlink, Target: ".."}, entry{Path: "l", Kind: folder}),
		"beside a file":      stream(file("."), "owned", ending{5}, file("evil"), "owned", ending{5}),
		"twice":              stream(dir, entry{Path: ".", Kind: symlink, Target: ".."}),
		"device":             stream(dir, entry{Path: "d", Kind: "device"}),
		"beyond its size":    stream(file("."), int64(5), ending{5}),
		"far beyond":         stream(file("."), int64(-2), ending{5}),
		"negative size":      stream(entry{Path: ".", Kind: regular, Size: -7}, ending{0}),
		"longer end":         stream(file("."), "owned", ending{1 << 50}),
		"no end of a file":   stream(file("."), "owned"),
		"file in a file":     stream(file("."), file("a"), ending{0}),
		"data of nothing":    stream("owned"),
		"nothing":            {},
		"cut":                bytes.NewBuffer(stream(file("."), "owned").Bytes()[:40]),
		"huge header":        bytes.NewBufferString("E\xff\xff\xff\xff"),
		"not JSON":           bytes.NewBufferString("E\x00\x00\x00\x01{"),
	} {
		outer := t.TempDir()
		dest := filepath.Join(outer, "dest")
		if err := os.Mkdir(dest, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Receive(in, Place{Dir: dest, Name: "copy"}, Options{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		_ = filepath.WalkDir(outer, func(path string, d fs.DirEntry, _ error) error {
			if strings.Contains(d.Name(), "evil") || strings.Contains(d.Name(), "smolvm-copy") {
				t.Errorf("%s: left %s", name, path)
			}
			return nil
		})
	}
	if _, err := os.Lstat("/tmp/evil"); err == nil {
		t.Error("/tmp/evil was written")
	}
}

func TestCaseCollision(t *testing.T) {
	in := stream(entry{Path: ".", Kind: folder}, entry{Path: "a", Kind: regular, Size: 5}, "owned", ending{5}, entry{Path: "A", Kind: regular})
	if _, err := Receive(in, Place{Dir: t.TempDir(), Name: "copy"}, Options{FoldCase: true}); err == nil {
		t.Error("two names that are one here were accepted")
	}
}

func TestStreams(t *testing.T) {
	var wire, out bytes.Buffer
	text := strings.Repeat("0123456789", 50_000)
	if _, err := SendStream(&wire, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	if sum, err := ReceiveStream(&wire, &out, nil); err != nil || out.String() != text || sum.Bytes != int64(len(text)) {
		t.Errorf("%+v, %v", sum, err)
	}
	out.Reset()
	in := stream(entry{Path: ".", Kind: regular, Size: 4}, int64(2), ending{4})
	if _, err := ReceiveStream(in, &out, nil); err != nil || out.String() != "\x00\x00x\x00" {
		t.Errorf("holes came as %q, %v", &out, err)
	}
	if _, err := ReceiveStream(stream(entry{Path: ".", Kind: folder}), &out, nil); !errors.Is(err, ErrNoFile) {
		t.Errorf("a folder: %v", err)
	}
}

// TestFind is cp's rule of where something goes.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	write1(t, filepath.Join(dir, "file"), "", 0o644)
	for _, c := range []struct {
		dest, name string
		want       Place
		refused    bool
	}{
		{dest: dir, name: "a", want: Place{Dir: dir, Name: "a"}},
		{dest: dir + "/", name: "a", want: Place{Dir: dir + "/", Name: "a"}},
		{dest: dir, name: Contents, want: Place{Dir: dir, Name: ".", Merge: true}},
		{dest: dir, name: "", refused: true},
		{dest: dir + "/new", name: "a", want: Place{Dir: dir, Name: "new"}},
		{dest: dir + "/new/", name: "a", refused: true},
		{dest: dir + "/new/", name: Contents, want: Place{Dir: dir, Name: "new"}},
		{dest: dir + "/file", name: "a", want: Place{Dir: dir, Name: "file"}},
		{dest: dir + "/file/", name: "a", refused: true},
		{dest: dir + "/no/such", name: "a", refused: true},
	} {
		got, err := Find(c.dest, c.name)
		if got != c.want || (err != nil) != c.refused {
			t.Errorf("%s, %q: %+v, %v", c.dest, c.name, got, err)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(stream(entry{Path: ".", Kind: folder}, entry{Path: "a", Kind: regular, Size: 5}, "owned", ending{5}).Bytes())
	f.Add(stream(entry{Path: ".", Kind: symlink, Target: "x"}).Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "in"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { openFolders(filepath.Join(dir, "in")) })
		_, _ = Receive(bytes.NewReader(raw), Place{Dir: filepath.Join(dir, "in"), Name: "x"}, Options{})
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("it left the target: %v", entries)
		}
	})
}

// openFolders lets what a folder without permissions holds be removed.
func openFolders(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700) // before it is read
		}
		return nil
	})
}
