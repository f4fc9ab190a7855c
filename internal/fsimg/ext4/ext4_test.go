package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// made is a file system of a tree, made by the ordinary tool with a layer's options.
func made(t testing.TB, tree string, options ...string) string {
	t.Helper()
	tool, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if tool = "/usr/sbin/mkfs.ext4"; exec.Command(tool, "-V").Run() != nil {
			t.Skip("mkfs.ext4 is missing: install e2fsprogs")
		}
	}
	image := filepath.Join(t.TempDir(), "image")
	args := append([]string{"-q", "-F", "-I", "256", "-m", "0", "-O", "^has_journal,^resize_inode", "-d", tree}, options...)
	if out, err := exec.Command(tool, append(args, image, "24M")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return image
}

func opened(t testing.TB, image string) *FS {
	t.Helper()
	file, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	f, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// forest is a tree with something of everything that this reader reads.
func forest(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, data []byte) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	put("empty", nil)
	put("usr/share/doc/a/copyright", []byte("License: MIT\n"))
	put("big", bytes.Repeat([]byte("0123456789abcdef"), 200_000))
	for i := range 900 { // a directory with a hash tree
		put(fmt.Sprintf("many/a-rather-long-name-of-a-file-%04d", i), nil)
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	for at := int64(0); at < 40; at += 2 { // more extents than an inode holds
		if _, err := sparse.WriteAt([]byte("block"), at*4096*3); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(
		sparse.Truncate(1<<20),
		os.Symlink("a", filepath.Join(dir, "usr/share/doc/b")),
		os.Symlink("/usr/share/doc/b/copyright", filepath.Join(dir, "absolute")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink(strings.Repeat("./", 60)+"empty", filepath.Join(dir, "long")),
		os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "again")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTreeIsReadAsItIs(t *testing.T) {
	tree := forest(t)
	for _, block := range []string{"4096", "1024"} {
		f := opened(t, made(t, tree, "-b", block))
		var names []string
		sizes := map[string]int64{}
		err := f.Walk(func(e Entry) error {
			names = append(names, e.Name)
			info, err := os.Lstat(filepath.Join(tree, e.Name))
			if e.Name == "lost+found" {
				return nil
			}
			if err != nil || info.Mode() != e.Mode || info.Mode().IsRegular() && info.Size() != e.Size {
				t.Errorf("%s: %v of %d bytes, want %v, %v", e.Name, e.Mode, e.Size, info, err)
			}
			sizes[e.Name] = e.Taken
			if e.Name == "again" && e.Links != 2 {
				t.Errorf("a hard link has %d names", e.Links)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(names, "many/a-rather-long-name-of-a-file-0899") || len(names) != 900+15 {
			t.Errorf("%d names", len(names))
		}
		if sizes["sparse"] >= 1<<20 || sizes["sparse"] < 20*1024 || sizes["empty"] != 0 {
			t.Errorf("taken: sparse %d, empty %d", sizes["sparse"], sizes["empty"])
		}
		for _, name := range []string{"big", "again", "sparse", "empty", "usr/share/doc/a/copyright", "usr/share/doc/b/copyright", "/absolute", "long"} {
			got, err := f.ReadFile(name, 4<<20)
			want, _ := os.ReadFile(filepath.Join(tree, strings.Replace(name, "/absolute", "usr/share/doc/a/copyright", 1)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), err)
			}
		}
	}
}

func TestReadFileRefuses(t *testing.T) {
	f := opened(t, made(t, forest(t)))
	for name, missing := range map[string]bool{
		"nothing": true, "usr/nothing": true, "loop": true, "../etc/passwd": true, "usr": false, "big": false, "empty/x": false,
	} {
		if _, err := f.ReadFile(name, 1000); err == nil || errors.Is(err, fs.ErrNotExist) != missing {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUsage(t *testing.T) {
	u := opened(t, made(t, forest(t))).Usage()
	if u.Size != 24<<20 || u.BlockSize != 4096 && u.BlockSize != 1024 || u.Free <= 0 || u.Free > u.Size || u.FreeInodes <= 0 {
		t.Errorf("%+v", u)
	}
}

// TestOverlayMarks writes what overlayfs writes. Only debugfs can do so without root.
func TestOverlayMarks(t *testing.T) {
	tree := forest(t)
	image := made(t, tree)
	debugfs := "/usr/sbin/debugfs"
	if _, err := os.Stat(debugfs); err != nil {
		t.Skip("debugfs is missing: install e2fsprogs")
	}
	commands := "ea_set usr trusted.overlay.opaque y\nea_set usr/share trusted.overlay.redirect /elsewhere/share\n" +
		"ea_set many user.note opaque\nmknod gone c 0 0\nmknod device c 1 3\n"
	cmd := exec.Command(debugfs, "-w", "-f", "-", image)
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := map[string]string{}
	err := opened(t, image).Walk(func(e Entry) error {
		if e.Whiteout || e.Opaque || e.Redirect != "" {
			got[e.Name] = fmt.Sprintf("%v %v %s", e.Whiteout, e.Opaque, e.Redirect)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"usr": "false true ", "usr/share": "false false /elsewhere/share", "gone": "true false "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOtherImagesAreRefused(t *testing.T) {
	tree := t.TempDir()
	for name, image := range map[string]string{
		"journal to recover is not ours": made(t, tree, "-O", "meta_bg,^resize_inode"),
		"data in inodes":                 made(t, tree, "-O", "inline_data"),
	} {
		file, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := Open(file); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, raw := range [][]byte{nil, make([]byte, 4096), []byte("no file system")} {
		if _, err := Open(bytes.NewReader(raw)); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes: %v", len(raw), err)
		}
	}
}

// use reads all that there is in an image.
func use(raw []byte) error {
	f, err := Open(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return f.Walk(func(e Entry) error {
		_, err := f.ReadFile(e.Name, 1<<20)
		if errors.Is(err, ErrFormat) {
			return err
		}
		return nil
	})
}

// TestDamagedImages changes bytes of the structures one by one: the reader says
// so or reads something, and always comes to an end.
func TestDamagedImages(t *testing.T) {
	tree := t.TempDir()
	for _, name := range []string{"d/e/f", "d/g", "h"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(tree, filepath.Dir(name)), 0o755), os.WriteFile(filepath.Join(tree, name), []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	image, err := os.ReadFile(made(t, tree, "-b", "1024", "-N", "32"))
	if err != nil {
		t.Fatal(err)
	}
	image = image[:min(len(image), 512<<10)]
	refused := 0
	for at, b := range image {
		if b == 0 && at%16 != 0 {
			continue
		}
		for _, value := range []byte{^b, b ^ 1} {
			image[at] = value
			if errors.Is(use(image), ErrFormat) {
				refused++
			}
		}
		image[at] = b
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

func FuzzOpen(f *testing.F) {
	tree := f.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("text"), 0o644); err != nil {
		f.Fatal(err)
	}
	image, err := os.ReadFile(made(f, tree, "-b", "1024", "-N", "16"))
	if err != nil {
		f.Fatal(err)
	}
	image = image[:64<<10]
	f.Add(2*1024, []byte{1})
	f.Fuzz(func(_ *testing.T, at int, patch []byte) {
		raw := bytes.Clone(image)
		if at >= 0 && at < len(raw) {
			copy(raw[at:], patch)
		}
		_ = use(raw)
	})
}
