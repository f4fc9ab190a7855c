//go:build linux

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var epoch = time.Unix(1700000000, 0)

// archive makes a tar file; headers get the owner of the test.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		content := []byte(h.Gname) // a field that nothing else uses
		h.Gname, h.Uid, h.Gid, h.Format = "", os.Getuid(), os.Getgid(), tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = epoch
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func dir(name string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}
}

func file(name, content string, mode int64) tar.Header {
	return tar.Header{Name: name, Gname: content, Mode: mode}
}

// userXattrs skips the test where the file system has no attributes.
func userXattrs(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Setxattr(dir, "user.test", nil, 0); err != nil {
		t.Skipf("file system of %s has no user attributes: %v", dir, err)
	}
	if err := unix.Removexattr(dir, "user.test"); err != nil {
		t.Fatal(err)
	}
}

func sample() []tar.Header {
	withAttr := file("./usr/bin/tool", "#!/bin/sh\n", 0o4755)
	withAttr.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "a\x01b"}
	old := file("./etc/old", "old", 0o600)
	old.ModTime = time.Unix(1000000000, 0)
	return []tar.Header{
		dir("./", 0o755), dir("./etc", 0o755), old, dir("./usr/", 0o755), dir("./usr/bin", 0o711), withAttr,
		{Name: "./usr/bin/also", Typeflag: tar.TypeLink, Linkname: "./usr/bin/tool"},
		{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
		{Name: "./abs", Typeflag: tar.TypeSymlink, Linkname: "/nowhere/at/all"},
		{Name: "./pipe", Typeflag: tar.TypeFifo, Mode: 0o640},
		file("./bin/late", "through the link", 0o644),
	}
}

func TestExtract(t *testing.T) {
	root := t.TempDir()
	userXattrs(t, root)
	raw := append(archive(t, sample()...), make([]byte, 1<<20)...) // a padded drive
	stats, err := Extract(bytes.NewReader(raw), root)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Entries != len(sample()) || stats.Bytes != int64(len("#!/bin/sh\noldthrough the link")) {
		t.Errorf("stats %+v", stats)
	}
	checkSample(t, root)
}

// checkSample looks at a tree of the sample's files.
func checkSample(t *testing.T, root string) {
	t.Helper()
	tool, _, err := fromFile(filepath.Join(root, "usr/bin/tool"))
	if err != nil {
		t.Fatal(err)
	}
	want := node{mode: unix.S_IFREG | 0o4755, uid: os.Getuid(), gid: os.Getgid(), mtime: epoch, xattrs: map[string]string{"user.note": "a\x01b"}}
	if diff := cmp.Diff(want, tool, cmp.AllowUnexported(node{})); diff != "" {
		t.Errorf("tool (-want +got)\n%s", diff)
	}
	one, err1 := os.Stat(filepath.Join(root, "usr/bin/tool"))
	two, err2 := os.Stat(filepath.Join(root, "usr/bin/also"))
	if err1 != nil || err2 != nil || !os.SameFile(one, two) {
		t.Errorf("hard link lost: %v, %v", err1, err2)
	}
	if target, _ := os.Readlink(filepath.Join(root, "abs")); target != "/nowhere/at/all" {
		t.Errorf("link leads to %q", target)
	}
	for name, mode := range map[string]fs.FileMode{"usr/bin": fs.ModeDir | 0o711, "pipe": fs.ModeNamedPipe | 0o640, "usr/bin/late": 0o644} {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || info.Mode() != mode || !info.ModTime().Equal(epoch) {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "etc/old")); err != nil || info.ModTime().Unix() != 1000000000 {
		t.Errorf("old: %v, %v", info, err)
	}
}

func TestExtractReplacesEarlierEntries(t *testing.T) {
	root := t.TempDir()
	raw := archive(t,
		file("a", "one", 0o644), file("a", "two", 0o600),
		dir("d", 0o755), tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"}, dir("l", 0o700),
		dir("e", 0o755), file("e", "now a file", 0o644))
	if _, err := Extract(bytes.NewReader(raw), root); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(root, "a")); string(got) != "two" {
		t.Errorf("a holds %q", got)
	}
	if info, err := os.Lstat(filepath.Join(root, "l")); err != nil || !info.IsDir() {
		t.Errorf("l is %v, %v", info, err)
	}
}

func TestExtractStaysInside(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for name, entries := range map[string][]tar.Header{
		"dots":                  {file("../evil", "x", 0o644)},
		"inner dots":            {file("a/../../evil", "x", 0o644)},
		"through absolute link": {link("out", outside), file("out/evil", "x", 0o644)},
		"through relative link": {link("out", "../../../../../../../.."+outside), file("out/evil", "x", 0o644)},
		"hard link out":         {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../victim"}},
		"hard link by link":     {link("out", outside), {Name: "h", Typeflag: tar.TypeLink, Linkname: "out/victim"}},
		"the root as a file":    {file(".", "x", 0o644)},
		"unknown type":          {{Name: "x", Typeflag: 'V'}},
	} {
		if _, err := Extract(bytes.NewReader(archive(t, entries...)), t.TempDir()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	entries, err := os.ReadDir(outside)
	if got, _ := os.ReadFile(victim); err != nil || len(entries) != 1 || string(got) != "safe" {
		t.Errorf("outside: %v, %v, %q", entries, err, got)
	}
}

func TestExtractRefusesDamage(t *testing.T) {
	good := archive(t, sample()...)
	for name, raw := range map[string][]byte{
		"empty": nil, "zeros": make([]byte, 1<<16), "text": bytes.Repeat([]byte("no tar "), 1000),
		"cut": good[:len(good)/2+100],
	} {
		if stats, err := Extract(bytes.NewReader(raw), t.TempDir()); err == nil {
			t.Errorf("%s: accepted, %+v", name, stats)
		}
	}
}

func TestExtractDevices(t *testing.T) {
	root := t.TempDir()
	null := tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}
	_, err := Extract(bytes.NewReader(archive(t, null)), root)
	if errors.Is(err, unix.EPERM) {
		t.Skipf("devices need root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	n, _, err := fromFile(filepath.Join(root, "null"))
	if err != nil || n.rdev != unix.Mkdev(1, 3) || n.mode != unix.S_IFCHR|0o666 {
		t.Errorf("got %+v, %v", n, err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(archive(f, sample()...))
	f.Add(archive(f, file("../x", "y", 0o644)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		parent := t.TempDir()
		root := filepath.Join(parent, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_, _ = Extract(bytes.NewReader(raw), root)
		entries, err := os.ReadDir(parent)
		if err != nil || len(entries) != 1 {
			t.Errorf("outside of the root: %v, %v", entries, err)
		}
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, _ error) error {
			if entry != nil && entry.IsDir() {
				_ = os.Chmod(path, 0o700) // for the removal
			}
			return nil
		})
	})
}

func TestCopyTree(t *testing.T) {
	source, dest := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	userXattrs(t, source)
	if _, err := Extract(bytes.NewReader(archive(t, sample()...)), source); err != nil {
		t.Fatal(err)
	}
	if err := CopyTree(source, dest); err != nil {
		t.Fatal(err)
	}
	checkSample(t, dest)
	if err := CopyTree(source, dest); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second copy: %v", err)
	}
}

// write makes files with parents.
func write(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// names lists a tree.
func names(t *testing.T, root string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, _ := filepath.Rel(root, path)
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestClean(t *testing.T) {
	root := t.TempDir()
	write(t, root,
		"etc/machine-id", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/passwd", "etc/passwd-",
		"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_config",
		"run/x", "tmp/a/b", "var/tmp/c", "var/log/apt/term.log", "var/lib/apt/lists/partial/x", "var/lib/apt/extended_states",
		"var/cache/apt/pkgcache.bin", "var/cache/apt/archives/x.deb", "var/lib/dpkg/status", "var/lib/dpkg/status-old",
		"root/.bash_history", "home/agent/.bash_history", "home/agent/.npm/_cacache/x", "home/agent/.config/keep", "usr/bin/keep")
	if err := os.Symlink("/etc", filepath.Join(root, "dev")); err != nil { // must not be followed
		t.Fatal(err)
	}
	if err := Clean(root, false); err != nil {
		t.Fatal(err)
	}
	want := "dev etc/passwd etc/ssh/ssh_config home/agent/.config/keep usr/bin/keep var/lib/apt/extended_states var/lib/dpkg/status"
	if diff := cmp.Diff(want, names(t, root)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(root, "var/log/apt")); err != nil || !info.IsDir() {
		t.Errorf("the log folder is gone: %v", err)
	}
	if err := Clean(root, true); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, machineIDFile)); err != nil || len(got) != 0 {
		t.Errorf("machine id of a base: %q, %v", got, err)
	}
}

func TestNormalizeDependsOnTheTreeAlone(t *testing.T) {
	var digests []string
	for i := range 3 {
		root := t.TempDir()
		write(t, root, "a/b", "c")
		if i == 2 {
			write(t, root, "d")
		}
		now := time.Now().Add(time.Duration(i) * time.Hour)
		for _, name := range []string{"a/b", "a", "c", "."} {
			if err := os.Chtimes(filepath.Join(root, name), now, now); err != nil {
				t.Fatal(err)
			}
		}
		u, err := normalize(root, epoch)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, u.uuid("uuid"))
		if info, _ := os.Stat(filepath.Join(root, "a")); !info.ModTime().Equal(epoch) {
			t.Errorf("time is %v", info.ModTime())
		}
		if u.uuid("uuid") == u.uuid("hash seed") {
			t.Error("one UUID for two purposes")
		}
	}
	if digests[0] != digests[1] || digests[0] == digests[2] {
		t.Errorf("digests %v", digests)
	}
}

func TestUsageLeavesOutHolesAndSecondLinks(t *testing.T) {
	root := t.TempDir()
	write(t, root, "file")
	if err := os.Link(filepath.Join(root, "file"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(root, "file"), 1<<30); err != nil {
		t.Fatal(err)
	}
	u, err := normalize(root, epoch)
	if err != nil || u.inodes != 2 || u.blocks > 64 {
		t.Errorf("got %d inodes, %d blocks, %v", u.inodes, u.blocks, err)
	}
}

func TestStripBinding(t *testing.T) {
	root := t.TempDir()
	for _, attr := range []string{"trusted.overlay.origin", "trusted.overlay.redirect"} {
		if err := unix.Setxattr(root, attr, []byte("x"), 0); err != nil {
			t.Skipf("trusted attributes need root: %v", err)
		}
	}
	if err := stripBinding(root); err != nil {
		t.Fatal(err)
	}
	if got, err := listXattrs(root); err != nil || strings.Join(got, " ") != "trusted.overlay.redirect" {
		t.Errorf("left %v, %v", got, err)
	}
}

// blankDrive makes a sparse file that stands in for a drive.
func blankDrive(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// tool finds a program of e2fsprogs, which is not in every user's PATH.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, name); exec.CommandContext(t.Context(), path, "-V").Run() == nil {
			return path
		}
	}
	t.Skipf("there is no %s here", name)
	return ""
}

func pack(t *testing.T, tree, device string) Pack {
	mkfs := tool(t, "mkfs.ext4")
	return Pack{
		Tree: tree, Device: device, Epoch: epoch, Working: func(string) {},
		Run: func(ctx context.Context, env, argv []string) error {
			cmd := exec.CommandContext(ctx, mkfs, argv[1:]...)
			cmd.Env = env
			out, err := cmd.CombinedOutput()
			if err != nil {
				return errors.Join(err, errors.New(string(out)))
			}
			return nil
		},
	}
}

func TestPack(t *testing.T) {
	fsck := tool(t, "e2fsck")
	tree := t.TempDir()
	write(t, tree, "usr/bin/tool", "etc/machine-id", "tmp/x")
	for i := range 300 {
		write(t, tree, "usr/lib/dir"+string(rune('a'+i%7))+"/"+strings.Repeat("n", i%200+1)+string(rune('a'+i%26)))
	}
	if err := os.WriteFile(filepath.Join(tree, "big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<17), 0o644); err != nil {
		t.Fatal(err)
	}
	var images [2][]byte
	for i := range images {
		device := blankDrive(t, 64<<20)
		size, err := pack(t, tree, device).Write(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(device, size); err != nil {
			t.Fatal(err)
		}
		if size < 3<<20 || size > 6<<20 {
			t.Errorf("%d bytes for a tree of 3 MiB", size)
		}
		if out, err := exec.CommandContext(t.Context(), fsck, "-fn", device).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
		if images[i], err = os.ReadFile(device); err != nil {
			t.Fatal(err)
		}
	}
	if len(images[0]) != len(images[1]) {
		t.Errorf("sizes differ: %d, %d", len(images[0]), len(images[1]))
	}
}

// Blocks of zeros that a program's file has take no room in a layer.
func TestPackLeavesNoRoomForZeros(t *testing.T) {
	tree, device := t.TempDir(), blankDrive(t, 64<<20)
	data := make([]byte, 16<<20)
	for i := 0; i < len(data)/2; i += blockSize {
		copy(data[2*i:], "something") // every second block
	}
	if err := os.WriteFile(filepath.Join(tree, "program"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	size, err := pack(t, tree, device).Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	free, err := freeBlocks(device)
	if err != nil {
		t.Fatal(err)
	}
	if free*100 > 5*size/blockSize {
		t.Errorf("%d of %d blocks are free", free, size/blockSize)
	}
	if err := os.Truncate(device, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool(t, "e2fsck"), "-fn", device).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestPackRefuses(t *testing.T) {
	tree := t.TempDir()
	write(t, tree, "a")
	used := blankDrive(t, 1<<20)
	if err := os.WriteFile(used, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Pack){
		"drive in use":   func(p *Pack) { p.Device = used },
		"small drive":    func(p *Pack) { p.Device = blankDrive(t, 128<<10) },
		"tiny drive":     func(p *Pack) { p.Device = blankDrive(t, 512) },
		"no tree":        func(p *Pack) { p.Tree = filepath.Join(tree, "none") },
		"clock behind":   func(p *Pack) { p.Epoch = time.Now().Add(time.Hour) },
		"failing mkfs":   func(p *Pack) { p.Run = func(context.Context, []string, []string) error { return io.ErrUnexpectedEOF } },
		"missing drive":  func(p *Pack) { p.Device = filepath.Join(tree, "drive") },
		"cancelled mkfs": func(p *Pack) { p.Run = func(context.Context, []string, []string) error { return context.Canceled } },
	} {
		p := Pack{Tree: tree, Device: blankDrive(t, 8<<20), Epoch: epoch, Working: func(string) {}}
		p.Run = func(context.Context, []string, []string) error { t.Errorf("%s: mkfs was run", name); return nil }
		change(&p)
		if size, err := p.Write(t.Context()); err == nil {
			t.Errorf("%s: wrote %d bytes", name, size)
		}
	}
}

// A first size that is too small must not be the end, and what the failed
// attempt left on the drive must be gone.
func TestPackTriesALargerSize(t *testing.T) {
	tree, device := t.TempDir(), blankDrive(t, 8<<20)
	write(t, tree, "a")
	var sizes []string
	p := Pack{Tree: tree, Device: device, Epoch: epoch, Working: func(string) {}}
	p.Run = func(_ context.Context, _, argv []string) error {
		sizes = append(sizes, argv[len(argv)-1])
		head, err := os.ReadFile(device)
		if err != nil || len(bytes.Trim(head, "\x00")) > 0 {
			t.Errorf("the drive is not blank: %v", err)
		}
		if len(sizes) == 1 {
			return errors.Join(os.WriteFile(device, []byte("half a file system"), 0o600), os.Truncate(device, 8<<20), unix.ENOSPC)
		}
		return nil
	}
	size, err := p.Write(t.Context())
	if err != nil || len(sizes) != 2 || len(sizes[0]) > len(sizes[1]) || size == 0 {
		t.Errorf("sizes %v, %d, %v", sizes, size, err)
	}
}
