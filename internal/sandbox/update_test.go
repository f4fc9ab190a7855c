package sandbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/vmm"
)

// scratchWith replaces a sandbox's disk by one with these files.
func (b *bench) scratchWith(name string, paths ...string) {
	b.t.Helper()
	mkfs, err := exec.LookPath("/usr/sbin/mkfs.ext4")
	if err != nil {
		b.t.Skip("mkfs.ext4 (e2fsprogs) is needed")
	}
	tree := b.t.TempDir()
	for _, path := range paths {
		if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(path)), 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, path), []byte(path), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	disk := b.book.Folder(name).Scratch()
	if out, err := exec.CommandContext(b.t.Context(), mkfs, "-q", "-F", "-d", tree, disk).CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
}

// TestUpdate gives a stopped sandbox another image, and says first what that drops.
func TestUpdate(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	image := record.Image{Release: "newer", Kernel: filepath.Join(b.home, "kernel"), Layers: b.spec("one").Image.Layers}
	_, err := b.m.Update("one", image, record.Agent{})
	wantFault(t, err, fault.Conflict, "running")
	if err := b.m.Stop(t.Context(), "one", 0); err != nil {
		t.Fatal(err)
	}
	b.scratchWith("one", "home/f", "workspace/f", "upper/etc/hostname", "upper/etc/motd", "upper/usr/share/doc/a/x", "upper/usr/share/doc/a/y/z",
		"upper/var/cache/apt/big", "upper/var/lib/dpkg/status", "upper/var/lib/dpkg/info/htop.list", "upper/var/lib/dpkg/info/libc6:amd64.list",
		"upper/usr/local/share/ca-certificates/smolvm-0.crt", "upper-1/etc/other", "work/x")
	got, err := b.m.Changes("one")
	want := sandbox.Changes{
		Packages: []string{"htop", "libc6"},
		Paths:    []sandbox.Change{{Path: "/etc/motd", Files: 1}, {Path: "/usr/share/doc", Files: 2}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	r, err := b.m.Update("one", image, record.Agent{Name: "Claude", Version: "9"})
	if err != nil || r.Generation != 1 || r.Image.Release != "newer" || r.Agent.Version != "9" {
		t.Fatalf("got %+v, %v", r, err)
	}
	got, err = b.m.Changes("one")
	if diff := cmp.Diff(sandbox.Changes{Paths: []sandbox.Change{{Path: "/etc/other", Files: 1}}}, got); err != nil || diff != "" {
		t.Errorf("of the new generation: %v (-want +got)\n%s", err, diff)
	}
	if err := os.WriteFile(b.book.Folder("one").Scratch(), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = b.m.Changes("one")
	wantFault(t, err, fault.Conflict, "not made clean")
}

// TestResize changes what a stopped sandbox has, and never makes its disk smaller.
func TestRehost(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	to := sandbox.Host{VMM: "fake", Accel: vmm.TCG, Program: &record.Program{Path: "/bin/firecracker", Asked: true}}
	_, err := b.m.Rehost("one", to)
	wantFault(t, err, fault.Conflict, "running")
	if err := b.m.Stop(t.Context(), "one", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.m.Rehost("one", to); err != nil {
		t.Fatal(err)
	}
	if r := b.start("one"); r.VMM != "fake" || r.Accel != "tcg" || r.VMMProgram == nil || *r.VMMProgram != *to.Program {
		t.Errorf("runs by %s, %s, made for %+v", r.VMM, r.Accel, r.VMMProgram)
	}
}

func TestResize(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	_, err := b.m.Resize("one", sandbox.Size{CPUs: 2})
	wantFault(t, err, fault.Conflict, "running")
	if err := b.m.Stop(t.Context(), "one", 0); err != nil {
		t.Fatal(err)
	}
	r, err := b.m.Resize("one", sandbox.Size{CPUs: 2, MemoryMiB: 512, DiskBytes: 128 << 20})
	if err != nil || r.CPUs != 2 || r.MemoryMiB != 512 || r.DiskBytes != 128<<20 {
		t.Fatalf("got %+v, %v", r, err)
	}
	if info, err := os.Stat(b.book.Folder("one").Scratch()); err != nil || info.Size() != 128<<20 {
		t.Errorf("the disk is %v, %v", info, err)
	}
	_, err = b.m.Resize("one", sandbox.Size{CPUs: 8, DiskBytes: 64 << 20})
	wantFault(t, err, fault.Usage, "smaller")
	if s := b.wantState("one", sandbox.Stopped); s.CPUs != 2 {
		t.Errorf("a refused change left %d CPUs", s.CPUs)
	}
}
