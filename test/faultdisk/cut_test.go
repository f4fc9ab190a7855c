//go:build linux

package faultdisk

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The tests here use the disk without mounting it, so that they run everywhere.

func must(t *testing.T, errno syscall.Errno) {
	t.Helper()
	if errno != 0 {
		t.Fatal(errno)
	}
}

func file(t *testing.T, d *Disk, folder *inode, name, text string) *inode {
	t.Helper()
	f, errno := d.add(Create, folder, name, syscall.S_IFREG|0o600, 0, 0)
	must(t, errno)
	_, errno = d.write(f, []byte(text), 0)
	must(t, errno)
	return f
}

func folder(t *testing.T, d *Disk, in *inode, name string) *inode {
	t.Helper()
	f, errno := d.add(Mkdir, in, name, folderMode|0o755, 0, 0)
	must(t, errno)
	return f
}

// listing is every file with its bytes, as programs see it.
func listing(d *Disk) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	var walk func(path string, f *inode)
	walk = func(path string, f *inode) {
		for _, name := range f.names(false) {
			child := f.entries[name]
			if child.folder() {
				all = append(all, path+name+"/")
				walk(path+name+"/", child)
				continue
			}
			data := make([]byte, child.data.size)
			child.data.read(data, 0)
			all = append(all, path+name+"="+string(data))
		}
	}
	walk("", d.root)
	return strings.Join(all, " ")
}

// What each fsync makes durable, and what only a rename ties together.
func TestOnlyTheSyncedSurvives(t *testing.T) {
	tests := map[string]struct {
		do   func(t *testing.T, d *Disk)
		want string
	}{
		"nothing": {func(t *testing.T, d *Disk) { file(t, d, d.root, "f", "new") }, ""},
		"file without its name": {func(t *testing.T, d *Disk) {
			must(t, d.sync(file(t, d, d.root, "f", "new")))
		}, ""},
		"name without the bytes": {func(t *testing.T, d *Disk) {
			file(t, d, d.root, "f", "new")
			must(t, d.sync(d.root))
		}, "f="},
		"both": {func(t *testing.T, d *Disk) {
			must(t, d.sync(file(t, d, d.root, "f", "new")))
			must(t, d.sync(d.root))
		}, "f=new"},
		"written after fsync": {func(t *testing.T, d *Disk) {
			f := file(t, d, d.root, "f", "one")
			must(t, d.sync(f))
			must(t, d.sync(d.root))
			_, errno := d.write(f, []byte("two more"), 0)
			must(t, errno)
		}, "f=one"},
		"folder whose own name is lost": {func(t *testing.T, d *Disk) {
			sub := folder(t, d, d.root, "sub")
			must(t, d.sync(file(t, d, sub, "f", "new")))
			must(t, d.sync(sub))
		}, ""},
		"renamed over, not synced": {func(t *testing.T, d *Disk) {
			must(t, d.sync(file(t, d, d.root, "f", "old")))
			must(t, d.sync(d.root))
			must(t, d.sync(file(t, d, d.root, "f.new", "new")))
			must(t, d.rename(d.root, "f.new", d.root, "f", 0))
		}, "f=old"},
		"renamed over and synced": {func(t *testing.T, d *Disk) {
			file(t, d, d.root, "f", "old")
			must(t, d.sync(file(t, d, d.root, "f.new", "new")))
			must(t, d.rename(d.root, "f.new", d.root, "f", 0))
			must(t, d.sync(d.root))
		}, "f=new"},
		"moved, one folder synced": {func(t *testing.T, d *Disk) {
			a, b := folder(t, d, d.root, "a"), folder(t, d, d.root, "b")
			must(t, d.sync(file(t, d, a, "f", "x")))
			must(t, d.sync(a))
			must(t, d.sync(d.root))
			must(t, d.rename(a, "f", b, "f", 0))
			must(t, d.sync(b))
		}, "a/ b/ b/f=x"},
		"folder moved twice, last place synced": {func(t *testing.T, d *Disk) {
			a, b, c := folder(t, d, d.root, "a"), folder(t, d, d.root, "b"), folder(t, d, d.root, "c")
			sub := folder(t, d, a, "sub")
			must(t, d.sync(sub))
			must(t, d.sync(a))
			must(t, d.sync(d.root))
			must(t, d.rename(a, "sub", b, "sub", 0))
			must(t, d.rename(b, "sub", c, "sub", 0))
			must(t, d.sync(c))
		}, "a/ b/ c/ c/sub/"},
		"unlinked, not synced": {func(t *testing.T, d *Disk) {
			must(t, d.sync(file(t, d, d.root, "f", "x")))
			must(t, d.sync(d.root))
			must(t, d.remove(Unlink, d.root, "f"))
		}, "f=x"},
		"unlinked, made again, only the folder synced": {func(t *testing.T, d *Disk) {
			must(t, d.sync(file(t, d, d.root, "f", "x")))
			must(t, d.sync(d.root))
			must(t, d.remove(Unlink, d.root, "f"))
			file(t, d, d.root, "f", "y")
			must(t, d.sync(d.root))
		}, "f="},
		"hard link, not synced": {func(t *testing.T, d *Disk) {
			f := file(t, d, d.root, "f", "x")
			must(t, d.sync(f))
			must(t, d.sync(d.root))
			must(t, d.link(f, d.root, "g"))
		}, "f=x"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := New(Options{})
			test.do(t, d)
			d.cut(nil)
			if got := listing(d); got != test.want {
				t.Errorf("left: %q, want %q", got, test.want)
			}
		})
	}
}

// With dice a cut leaves, now and then, each part of what was not synced, and
// never anything that was not written. What was synced is always there.
func TestDiceLeaveAnyPartOfTheRest(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(400) {
		d := New(Options{})
		f := file(t, d, d.root, "f", strings.Repeat("o", 2*blockSize))
		must(t, d.sync(f))
		must(t, d.sync(d.root))
		_, errno := d.write(f, bytes.Repeat([]byte("n"), 3*blockSize), 0)
		must(t, errno)
		must(t, d.remove(Unlink, d.root, "f"))
		file(t, d, d.root, "g", "x")
		d.cut(rand.New(rand.NewPCG(seed, 0)))
		for _, name := range d.root.names(false) {
			left := d.root.entries[name].data
			seen[name+" of "+kinds(left)] = true
		}
		seen[strings.Join(d.root.names(false), "+")] = true
	}
	for _, want := range []string{"", "f", "g", "f+g", "f of oo", "f of nn", "f of nnn", "f of on", "f of no", "f of nn?", "f of ~o", "g of ?", "g of "} {
		if !seen[want] {
			t.Errorf("never left: %q", want)
		}
		delete(seen, want)
	}
	for left := range seen {
		if strings.Trim(strings.TrimPrefix(left, "f of "), "no~?") != "" || len(left) > len("f of nnn") {
			t.Errorf("left, but never written: %q", left)
		}
	}
}

// kinds shows each block by a letter: its bytes, ? for another, ~ for a torn one.
func kinds(c content) string {
	var text strings.Builder
	for at := int64(0); at < c.size; at += blockSize {
		p := make([]byte, blockSize)
		p = p[:c.read(p, at)]
		switch {
		case len(p) == blockSize && bytes.Count(p, p[:1]) == blockSize && p[0] != 0:
			text.WriteByte(p[0])
		case slices.Contains(p, 'n') && slices.Contains(p, 'o'):
			text.WriteByte('~')
		default:
			text.WriteByte('?')
		}
	}
	return text.String()
}

// Equal seeds, equal cuts: a failure can be repeated.
func TestCutsRepeat(t *testing.T) {
	run := func() string {
		d := New(Options{})
		for _, name := range []string{"a", "b", "c", "d"} {
			f := file(t, d, d.root, name, strings.Repeat(name, 10*blockSize))
			if name < "c" {
				must(t, d.sync(f))
			}
		}
		d.cut(rand.New(rand.NewPCG(5, 0)))
		return listing(d)
	}
	first := run()
	for range 20 {
		if got := run(); got != first {
			t.Fatal("two cuts with the same seed differ")
		}
	}
}

func TestCloneIsIndependent(t *testing.T) {
	d := New(Options{})
	f := file(t, d, d.root, "f", "one")
	must(t, d.link(f, d.root, "g"))
	c := d.Clone()
	_, errno := d.write(f, []byte("two"), 0)
	must(t, errno)
	c.cut(nil)
	if got := listing(c); got != "f=one g=one" || c.root.entries["f"] != c.root.entries["g"] {
		t.Errorf("clone: %q", got)
	}
	if c.Used() != blockSize || c.files != 2 {
		t.Errorf("%d bytes, %d files", c.Used(), c.files)
	}
}

func TestContentSparse(t *testing.T) {
	var c content
	c.write([]byte("x"), 10*blockSize)
	c.resize(20*blockSize + 5)
	for _, want := range []struct{ from, data, hole int64 }{{0, 10 * blockSize, 0}, {10*blockSize + 7, 10*blockSize + 7, 11 * blockSize}} {
		data, _ := c.seek(want.from, seekData)
		hole, _ := c.seek(want.from, seekHole)
		if data != want.data || hole != want.hole {
			t.Errorf("from %d: data at %d, hole at %d", want.from, data, hole)
		}
	}
	if _, errno := c.seek(12*blockSize, seekData); errno != syscall.ENXIO {
		t.Errorf("no data follows: %v", errno)
	}
	c.write(bytes.Repeat([]byte("y"), 3*blockSize), 0)
	c.punch(100, 2*blockSize)
	p := make([]byte, 3*blockSize)
	c.read(p, 0)
	if c.allocated() != 3 || bytes.Count(p, []byte("y")) != blockSize || p[99] != 'y' || p[100] != 0 || p[2*blockSize+100] != 'y' {
		t.Errorf("after a hole: %d blocks, %d bytes left", c.allocated(), bytes.Count(p, []byte("y")))
	}
	c.resize(50)
	c.resize(blockSize)
	p = p[:c.read(p, 0)]
	if bytes.Count(p, []byte("y")) != 50 {
		t.Errorf("what was cut off came back: %d", bytes.Count(p, []byte("y")))
	}
}

func TestRotLeavesNoTrace(t *testing.T) {
	d := New(Options{})
	f := file(t, d, folder(t, d, d.root, "a"), "f", "text")
	before := f.attributes
	if !d.Rot("a/f", 1) || d.Rot("a/f", 4) || d.Rot("a/g", 0) {
		t.Error("the wrong bytes can rot")
	}
	if got := listing(d); got != "a/ a/f=tuxt" || f.attributes != before {
		t.Errorf("%q, %+v", got, f.attributes)
	}
}
