package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

// hostTools is a runner that finds the host's programs, noTools one that finds none.
func hostTools() *process.Runner { return process.New(process.Options{Environ: os.Environ()}) }

// needMkfs skips where mkfs.ext4 is missing.
func needMkfs(t *testing.T) *process.Runner {
	t.Helper()
	r := hostTools()
	if _, err := r.Find(process.MkfsExt4); err != nil {
		t.Skipf("mkfs.ext4: %v", err)
	}
	return r
}

func wantFault(t *testing.T, err error, code fault.Code, parts ...string) {
	t.Helper()
	if err == nil || fault.CodeOf(err) != code {
		t.Fatalf("got %v (code %s), want code %s", err, fault.CodeOf(err), code)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// onlyFiles fails unless dir holds exactly the named entries.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("folder holds %q, want %q", got, want)
	}
}

func TestScratchIsAnExt4(t *testing.T) {
	r := needMkfs(t)
	for _, size := range []int64{MinScratch, 20 << 30} {
		path := filepath.Join(t.TempDir(), "scratch.ext4")
		if err := CreateScratch(t.Context(), r, path, size); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != size || info.Mode() != 0o600 {
			t.Errorf("size %d mode %v, want %d -rw-------", info.Size(), info.Mode(), size)
		}
		if took := info.Sys().(*syscall.Stat_t).Blocks * 512; took > scratchNeed(size) {
			t.Errorf("%d bytes take %d on disk, promised at most %d", size, took, scratchNeed(size))
		}
		checkSuperblock(t, path, size)
		onlyFiles(t, filepath.Dir(path), "scratch.ext4")
		e2fsck(t, path)
	}
}

// checkSuperblock reads what the guest's mount depends on.
func checkSuperblock(t *testing.T, path string, size int64) {
	t.Helper()
	data, err := readAt(path, 1024, 1024)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if le.Uint16(data[0x38:]) != 0xef53 || int64(le.Uint32(data[4:]))*4096 != size {
		t.Errorf("no ext4 of %d bytes: %x", size, data[:64])
	}
	if incompat := le.Uint32(data[0x60:]); incompat&^(0x2|0x40|0x80|0x200) != 0 { // filetype extents 64bit flex_bg
		t.Errorf("unexpected incompatible features %#x", incompat)
	}
}

func readAt(path string, at int64, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, n)
	_, err = f.ReadAt(data, at)
	return data, err
}

func e2fsck(t *testing.T, path string) {
	t.Helper()
	for _, name := range []string{"e2fsck", "/usr/sbin/e2fsck", "/sbin/e2fsck"} {
		if p, err := exec.LookPath(name); err == nil {
			if out, err := exec.Command(p, "-f", "-n", path).CombinedOutput(); err != nil {
				t.Errorf("e2fsck: %v\n%s", err, out)
			}
			return
		}
	}
	t.Log("e2fsck is not installed: the file system was not checked by it")
}

func TestScratchBlankWithoutMkfs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scratch.ext4")
	if err := createScratch(path, MinScratch, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || len(data) != MinScratch || len(bytes.Trim(data, "\x00")) != 0 {
		t.Errorf("not %d zeros: %d bytes, %v", MinScratch, len(data), err)
	}
}

// fakeMkfs is a runner whose mkfs.ext4 is a shell script.
func fakeMkfs(t *testing.T, script string) *process.Runner {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mkfs.ext4"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return process.New(process.Options{Environ: []string{"PATH=" + dir}})
}

func TestScratchFailures(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "scratch.ext4")
	err := CreateScratch(t.Context(), fakeMkfs(t, "echo broken inode table >&2; exit 7"), path, MinScratch)
	wantFault(t, err, fault.Storage, "broken inode table", path)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = CreateScratch(ctx, fakeMkfs(t, "exit 0"), path, MinScratch)
	wantFault(t, err, fault.Interrupted)

	for _, size := range []int64{-4096, 0, 4096, MinScratch + 1, MaxScratch + 4096} {
		wantFault(t, CreateScratch(t.Context(), fakeMkfs(t, "exit 0"), path, size), fault.Usage, "bytes cannot be made")
	}
	onlyFiles(t, dir)
	missing := filepath.Join(dir, "gone", "scratch.ext4")
	wantFault(t, CreateScratch(t.Context(), fakeMkfs(t, "exit 0"), missing, MinScratch), fault.Storage, "gone")
}

// TestScratchReplacesPlantedLinks plants links at the final and at the
// temporary name; the latter is also where a killed attempt leaves its file.
func TestScratchReplacesPlantedLinks(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "scratch.ext4")
	err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o600), os.Symlink(victim, path), os.Symlink(victim, path+".new"))
	if err != nil {
		t.Fatal(err)
	}
	if err := CreateScratch(t.Context(), fakeMkfs(t, "exit 0"), path, MinScratch); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "mine" {
		t.Errorf("the link's target was changed: %q %v", got, err)
	}
	onlyFiles(t, dir, "scratch.ext4", "victim")
}

func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	wantFault(t, requireSpace(dir, 1<<60), fault.Storage, "needs 1152921504606846976 bytes", "free", dir)
	err := create(filepath.Join(dir, "x"), func(*os.File) error { return syscall.ENOSPC })
	wantFault(t, explain(err, "scratch disk", filepath.Join(dir, "x"), 42), fault.Storage, "needs 42 bytes")
	onlyFiles(t, dir)
}

// TestFileSizeLimit lowers the limit of a child: it could not be raised again here.
func TestFileSizeLimit(t *testing.T) {
	if os.Getenv("SCRATCH_UNDER_LIMIT") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFileSizeLimit$")
		cmd.Env = append(os.Environ(), "SCRATCH_UNDER_LIMIT=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	err := CreateScratch(t.Context(), fakeMkfs(t, "exit 0"), filepath.Join(t.TempDir(), "s"), MinScratch)
	wantFault(t, err, fault.Storage, "file size limit of 1048576 bytes")
}

func TestInitrd(t *testing.T) {
	dir := t.TempDir()
	modules, dst := filepath.Join(dir, "modules"), filepath.Join(dir, "initrd.img")
	agent, archive := bytes.Repeat([]byte("agent"), 1001), []byte("070701-archive")
	if err := os.WriteFile(modules, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		modules         string
		authority, tail []byte
	}{{"", nil, nil}, {modules, []byte("certificate"), archive}} {
		if err := Initrd(dst, agent, c.modules, c.authority); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(got, []byte("070701")) || !bytes.Contains(got, agent) || !bytes.HasSuffix(got, c.tail) {
			t.Errorf("modules %q: %d bytes without header, agent or modules", c.modules, len(got))
		}
		if named := bytes.Contains(got, []byte("authority.crt")); named != (c.authority != nil) || !bytes.Contains(got, c.authority) {
			t.Errorf("modules %q: the certificate is there: %t", c.modules, named)
		}
		if at := len(got) - len(c.tail); at%4 != 0 {
			t.Errorf("the modules start at %d, not on a border of four bytes", at)
		}
		listed(t, dst)
	}
	onlyFiles(t, dir, "initrd.img", "modules")
}

// listed asks cpio for the agent and the console, where it is installed.
func listed(t *testing.T, path string) {
	t.Helper()
	program, err := exec.LookPath("cpio")
	if err != nil {
		t.Log("cpio is not installed: the archive was not read by it")
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(program, "--list", "--verbose", "--quiet")
	cmd.Stdin = io.Reader(f)
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "-rwxr-xr-x   1 root     root         5005 Jan  1  1970 init") ||
		!strings.Contains(string(out), "5,   1 Jan  1  1970 dev/console") {
		t.Errorf("cpio lists, %v:\n%s", err, out)
	}
}

func TestInitrdFailures(t *testing.T) {
	dir := t.TempDir()
	fifo, dst := filepath.Join(dir, "fifo"), filepath.Join(dir, "initrd.img")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	wantFault(t, Initrd(dst, nil, fifo, nil), fault.Storage, "not a regular file")
	wantFault(t, Initrd(dst, nil, filepath.Join(dir, "missing"), nil), fault.Storage, "missing")
	onlyFiles(t, dir, "fifo")
}

// A full disk is told by the kernel or, over a monitor's interface, in words.
func TestFull(t *testing.T) {
	for text, err := range map[string]error{
		"a":    &os.PathError{Op: "write", Path: "a", Err: syscall.ENOSPC},
		"file": errors.New("Cannot write the memory file: No space left on device (os error 28)"),
	} {
		full := Full(fmt.Errorf("keep it: %w", err))
		wantFault(t, full, fault.Storage, "keep it: ", text)
		if !strings.Contains(fault.HintOf(full), "smolvm prune") {
			t.Errorf("%v has the hint %q", full, fault.HintOf(full))
		}
	}
	for _, err := range []error{nil, io.ErrUnexpectedEOF} {
		if got := Full(err); !errors.Is(got, err) || fault.HintOf(got) != "" {
			t.Errorf("%v became %v", err, got)
		}
	}
}
