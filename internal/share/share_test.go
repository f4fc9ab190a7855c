package share

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// kernel asks a server as a guest's kernel would.
type kernel struct {
	t      *testing.T
	server *Server
	root   uint64 // the mount's node

	foretold [][]byte // what came ahead of the last answer
}

func mounted(t *testing.T, folder string, readOnly bool) *kernel {
	t.Helper()
	s := New(Owner{1000, 1000}, time.Now)
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Add(Mount{ID: "0", Host: folder, ReadOnly: readOnly}); err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, server: s}
	k.root = k.lookup(rootNode, "0")
	return k
}

// ask sends one message and gives the answer's body.
func (k *kernel) ask(opcode uint32, node uint64, parts ...any) ([]byte, syscall.Errno) {
	k.t.Helper()
	answer := k.server.answer(parse(message(opcode, node, parts...)))
	if opcode == opRelease || opcode == opReleasedir {
		if answer != nil {
			k.t.Fatalf("answer to %d: % x", opcode, answer)
		}
		return nil, 0
	}
	k.foretold = nil
	for len(answer) >= headerOut && binary.LittleEndian.Uint32(answer[4:]) == wire.Foretold {
		n := binary.LittleEndian.Uint32(answer)
		k.foretold, answer = append(k.foretold, answer[headerOut:n]), answer[n:]
	}
	if len(answer) < headerOut || int(binary.LittleEndian.Uint32(answer)) != len(answer) {
		k.t.Fatalf("answer to %d: % x", opcode, answer)
	}
	return answer[headerOut:], syscall.Errno(-int32(binary.LittleEndian.Uint32(answer[4:])))
}

// message puts a message together of numbers, names (ended by NUL) and bytes.
func message(opcode uint32, node uint64, parts ...any) []byte {
	var b []byte
	le := binary.LittleEndian
	for _, p := range parts {
		switch v := p.(type) {
		case uint32:
			b = le.AppendUint32(b, v)
		case uint64:
			b = le.AppendUint64(b, v)
		case string:
			b = append(append(b, v...), 0)
		case []byte:
			b = append(b, v...)
		}
	}
	head := le.AppendUint32(nil, uint32(headerIn+len(b)))
	head = le.AppendUint32(head, opcode)
	head = le.AppendUint64(head, 7)
	head = le.AppendUint64(head, node)
	return append(append(head, make([]byte, 16)...), b...)
}

func (k *kernel) must(opcode uint32, node uint64, parts ...any) []byte {
	k.t.Helper()
	body, errno := k.ask(opcode, node, parts...)
	if errno != 0 {
		k.t.Fatalf("operation %d: %v", opcode, errno)
	}
	return body
}

func (k *kernel) refused(want syscall.Errno, opcode uint32, node uint64, parts ...any) {
	k.t.Helper()
	if _, errno := k.ask(opcode, node, parts...); errno != want {
		k.t.Errorf("operation %d: %v, want %v", opcode, errno, want)
	}
}

func (k *kernel) lookup(node uint64, name string) uint64 {
	k.t.Helper()
	return binary.LittleEndian.Uint64(k.must(opLookup, node, name))
}

func (k *kernel) openFile(node uint64, flags uint32) uint64 {
	k.t.Helper()
	return binary.LittleEndian.Uint64(k.must(opOpen, node, flags, uint32(0)))
}

func (k *kernel) read(handle uint64) string {
	k.t.Helper()
	return string(k.must(opRead, rootNode, handle, uint64(0), uint32(4096), uint32(0), uint64(0), uint32(0), uint32(0)))
}

func (k *kernel) writeAt(handle, offset uint64, text string, flags uint32) syscall.Errno {
	k.t.Helper()
	_, errno := k.ask(opWrite, rootNode, handle, offset, uint32(len(text)), uint32(0), uint64(0), flags, uint32(0), []byte(text))
	return errno
}

func (k *kernel) createFile(node uint64, name string, mode uint32) (uint64, uint64) {
	k.t.Helper()
	body := k.must(opCreate, node, uint32(openRDWR), mode, uint32(0), uint32(0), name)
	return binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[entrySize:])
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestFilesReachTheHost(t *testing.T) {
	dir := t.TempDir()
	k := mounted(t, dir, false)
	_, h := k.createFile(k.root, "new", 0o664)
	if errno := k.writeAt(h, 0, "hello", 0); errno != 0 {
		t.Fatal(errno)
	}
	write(t, filepath.Join(dir, "new"), "hello, host") // grows behind the guest's back
	if errno := k.writeAt(h, 5, "!", openAppend); errno != 0 {
		t.Fatal(errno)
	}
	if got := content(t, filepath.Join(dir, "new")); got != "hello, host!" {
		t.Errorf("the host has %q", got)
	}
	if got := k.read(h); got != "hello, host!" {
		t.Errorf("the guest reads %q", got)
	}
	info, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil || info.Mode().Perm() != 0o664 {
		t.Errorf("mode %v, %v: the host's umask must not count", info.Mode(), err)
	}
	k.must(opRelease, rootNode, h, uint64(0), uint64(0))
	k.refused(syscall.EBADF, opRead, rootNode, h, uint64(0), uint32(1), uint32(0), uint64(0), uint64(0))
}

func TestOwnerIsMapped(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "mine"), "")
	k := mounted(t, dir, false)
	body := k.must(opLookup, k.root, "mine")
	uid := binary.LittleEndian.Uint32(body[40+68:])
	if uid != 1000 {
		t.Errorf("this user's file is shown as that of %d", uid)
	}
	n := binary.LittleEndian.Uint64(body)
	k.refused(syscall.EPERM, opSetattr, n, changing(setUID, 0, 0)...)
	k.must(opSetattr, n, changing(setMode, 0o600, 0)...)
	k.refused(syscall.EPERM, opSetattr, n, changing(setMode, 0o4755, 0)...)
	if info, _ := os.Stat(filepath.Join(dir, "mine")); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// changing is a setattr's body.
func changing(valid, mode, uid uint32) []any {
	return []any{
		valid, uint32(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0),
		uint32(0), uint32(0), uint32(0), mode, uint32(0), uid, uint32(0), uint32(0),
	}
}

// TestNothingLeadsOut tries every way out of the folder that names and links offer.
func TestNothingLeadsOut(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret"), "secret")
	dir := t.TempDir()
	k := mounted(t, dir, false)
	for _, name := range []string{"..", ".", "", "../" + filepath.Base(outside) + "/secret", "a/b", "/etc/passwd"} {
		k.refused(syscall.EINVAL, opLookup, k.root, name)
		k.refused(syscall.EINVAL, opMkdir, k.root, uint32(0o755), uint32(0), name)
		k.refused(syscall.EINVAL, opUnlink, k.root, name)
		k.refused(syscall.EINVAL, opSymlink, k.root, name, "target")
	}
	k.must(opSymlink, k.root, "out", outside)
	link := k.lookup(k.root, "out")
	k.refused(syscall.ENOTDIR, opLookup, link, "secret")
	if _, errno := k.ask(opOpen, link, uint32(0), uint32(0)); errno == 0 {
		t.Error("a link was opened")
	}
	k.must(opMkdir, k.root, uint32(0o755), uint32(0), "folder")
	folder := k.lookup(k.root, "folder")
	if err := os.Remove(filepath.Join(dir, "folder")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "folder")); err != nil { // as a guest could have done
		t.Fatal(err)
	}
	for _, op := range []struct {
		opcode uint32
		parts  []any
	}{
		{opLookup, []any{"secret"}},
		{opUnlink, []any{"secret"}},
		{opMkdir, []any{uint32(0o755), uint32(0), "made"}},
		{opCreate, []any{uint32(openRDWR), uint32(0o644), uint32(0), uint32(0), "made"}},
		{opSymlink, []any{"made", "x"}},
		{opMknod, []any{uint32(typeRegular | 0o644), uint32(0), uint32(0), uint32(0), "made"}},
	} {
		if _, errno := k.ask(op.opcode, folder, op.parts...); errno == 0 {
			t.Errorf("operation %d went through a link", op.opcode)
		}
	}
	names, _ := filepath.Glob(filepath.Join(outside, "*"))
	if len(names) != 1 || content(t, names[0]) != "secret" {
		t.Errorf("outside: %q", names)
	}
}

// TestRaceOutOfTheFolder swaps a folder for a link to the outside again and again
// while the guest opens and makes files in it.
func TestRaceOutOfTheFolder(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "file"), "secret")
	dir := t.TempDir()
	for _, name := range []string{"real", "swap"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "swap", "file"), "inside")
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	k := mounted(t, dir, false)
	swap := k.lookup(k.root, "swap")
	file := k.lookup(swap, "file")
	stop := make(chan struct{})
	var racing sync.WaitGroup
	racing.Go(func() {
		at := func(name string) string { return filepath.Join(dir, name) }
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(at("swap"), at("aside"))
			_ = os.Rename(at("link"), at("swap"))
			_ = os.Rename(at("swap"), at("link"))
			_ = os.Rename(at("aside"), at("swap"))
		}
	})
	for range 3000 {
		if body, errno := k.ask(opOpen, file, uint32(0), uint32(0)); errno == 0 {
			h := binary.LittleEndian.Uint64(body)
			if got := k.read(h); got != "inside" {
				t.Fatalf("the guest reads %q", got)
			}
			k.must(opRelease, rootNode, h, uint64(0), uint64(0))
		}
		k.ask(opMkdir, swap, uint32(0o755), uint32(0), "made")
		k.ask(opRmdir, swap, "made")
		k.ask(opSetattr, file, changing(setMode, 0o600, 0)...)
	}
	close(stop)
	racing.Wait()
	if info, err := os.Stat(filepath.Join(outside, "file")); err != nil || info.Mode() != 0o644 {
		t.Errorf("the file outside was changed: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "made")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made outside: %v", err)
	}
}

func TestDevicesAreRefused(t *testing.T) {
	k := mounted(t, t.TempDir(), false)
	for _, mode := range []uint32{0o020644, 0o060644} {
		k.refused(syscall.EPERM, opMknod, k.root, mode, uint32(0x103), uint32(0), uint32(0), "null")
	}
	k.refused(syscall.EPERM, opCreate, k.root, uint32(openRDWR), uint32(0o4755), uint32(0), uint32(0), "set-id")
	k.refused(syscall.EINVAL, opRename2, k.root, k.root, uint32(1<<2), uint32(0), "a", "b")
}

func TestReadOnlyIsEnforcedHere(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "text")
	k := mounted(t, dir, true)
	file := k.lookup(k.root, "file")
	ro := syscall.EROFS
	k.refused(ro, opOpen, file, uint32(openWrite), uint32(0))
	k.refused(ro, opOpen, file, uint32(openTrunc), uint32(0))
	k.refused(ro, opUnlink, k.root, "file")
	k.refused(ro, opRename, k.root, k.root, "file", "other")
	k.refused(ro, opSetattr, file, changing(setMode, 0o777, 0)...)
	k.refused(ro, opMkdir, k.root, uint32(0o755), uint32(0), "folder")
	k.refused(ro, opSetxattr, file, uint32(1), uint32(0), "user.a", []byte("x"))
	k.refused(ro, opLink, k.root, file, "again")
	h := k.openFile(file, 0)
	if got := k.read(h); got != "text" {
		t.Errorf("reads %q", got)
	}
	if errno := k.writeAt(h, 0, "gone", 0); errno != syscall.EBADF {
		t.Errorf("a write through a file that is open for reading: %v", errno)
	}
	k.refused(syscall.EBADF, opFallocate, rootNode, h, uint64(0), uint64(9), uint32(0), uint32(0))
}

func TestNamesOfOneFileAreOneNode(t *testing.T) {
	dir := t.TempDir()
	k := mounted(t, dir, false)
	a, _ := k.createFile(k.root, "a", 0o644)
	k.must(opLink, k.root, a, "b")
	if b := k.lookup(k.root, "b"); b != a {
		t.Errorf("nodes %d and %d", a, b)
	}
	k.must(opUnlink, k.root, "b")
	k.must(opGetattr, a, uint32(0), uint32(0), uint64(0))
	k.must(opMkdir, k.root, uint32(0o755), uint32(0), "below")
	below := k.lookup(k.root, "below")
	k.must(opRename, k.root, below, "a", "c")
	k.must(opRename, k.root, k.root, "below", "moved") // what is known of its files moves along
	k.must(opGetattr, a, uint32(0), uint32(0), uint64(0))
	k.must(opUnlink, below, "c")
	if got := k.must(opGetattr, a, uint32(0), uint32(0), uint64(0)); binary.LittleEndian.Uint32(got[16+64:]) != 0 {
		t.Error("a file that is only open has a name")
	}
}

func TestReplacedFileIsNoLongerTheOne(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "old")
	k := mounted(t, dir, false)
	old := k.lookup(k.root, "file")
	write(t, filepath.Join(dir, "next"), "new")
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	k.refused(syscall.ESTALE, opOpen, old, uint32(0), uint32(0))
	if got := k.read(k.openFile(k.lookup(k.root, "file"), 0)); got != "new" {
		t.Errorf("reads %q", got)
	}
}

func TestFileMount(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one"), "first")
	write(t, filepath.Join(dir, "secret"), "secret")
	k := mounted(t, filepath.Join(dir, "one"), false)
	if got := k.read(k.openFile(k.root, 0)); got != "first" {
		t.Errorf("reads %q", got)
	}
	k.refused(syscall.ENOTDIR, opLookup, k.root, "secret")
	write(t, filepath.Join(dir, "new"), "second") // as editors do
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "one")); err != nil {
		t.Fatal(err)
	}
	if got := k.read(k.openFile(k.root, 0)); got != "second" {
		t.Errorf("reads %q of the file that took its place", got)
	}
}

func TestVanishedFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	k := mounted(t, dir, false)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	k.refused(syscall.ENOENT, opCreate, k.root, uint32(openRDWR), uint32(0o644), uint32(0), uint32(0), "file")
	if err := k.server.Remove("0"); err != nil {
		t.Fatal(err)
	}
	k.refused(syscall.ENODEV, opGetattr, k.root, uint32(0), uint32(0), uint64(0))
}

func TestListing(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		write(t, filepath.Join(dir, strings.Repeat("x", i+1)), "")
	}
	k := mounted(t, dir, false)
	for _, opcode := range []uint32{opReaddir, opReaddirplus} {
		h := binary.LittleEndian.Uint64(k.must(opOpendir, k.root, uint32(0), uint32(0)))
		seen, offset := map[string]bool{}, uint64(0)
		for {
			part := k.must(opcode, rootNode, h, offset, uint32(2048), uint32(0), uint64(0), uint64(0))
			if len(part) == 0 {
				break
			}
			if len(part) > 2048 {
				t.Fatalf("%d bytes", len(part))
			}
			for len(part) > 0 {
				if opcode == opReaddirplus {
					part = part[entrySize:]
				}
				offset = binary.LittleEndian.Uint64(part[8:])
				n := int(binary.LittleEndian.Uint32(part[16:]))
				seen[string(part[direntSize:direntSize+n])] = true
				part = part[padded(direntSize+n):]
			}
		}
		if len(seen) != 102 {
			t.Errorf("%d names", len(seen))
		}
		k.must(opReleasedir, rootNode, h, uint64(0), uint64(0))
	}
	if k.server.listed != 0 {
		t.Errorf("%d entries are still held", k.server.listed)
	}
}

func TestForgottenNodesAreLetGo(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	k := mounted(t, dir, false)
	n := k.lookup(k.root, "file")
	k.lookup(k.root, "file")
	k.server.answer(parse(message(opForget, n, uint64(1))))
	k.must(opGetattr, n, uint32(0), uint32(0), uint64(0))
	k.server.answer(parse(message(opBatchForget, 0, uint32(1), uint32(0), n, uint64(1))))
	k.refused(syscall.ESTALE, opGetattr, n, uint32(0), uint32(0), uint64(0))
	if left := len(k.server.table.placed); left != 0 {
		t.Errorf("%d places are still known", left)
	}
}

func TestOpenFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	k := mounted(t, dir, false)
	k.server.most = 3
	n := k.lookup(k.root, "file")
	for range 3 {
		k.openFile(n, 0)
	}
	k.refused(syscall.ENFILE, opOpen, n, uint32(0), uint32(0))
	k.refused(syscall.ENFILE, opOpendir, k.root, uint32(0), uint32(0))
	k.refused(syscall.ENFILE, opCreate, k.root, uint32(openRDWR), uint32(0o644), uint32(0), uint32(0), "new")
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	s := New(Owner{1000, 1000}, time.Now)
	defer s.Close()
	if err := s.Add(Mount{ID: "0", Host: dir}); err != nil {
		t.Fatal(err)
	}
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- s.Serve(host) }()
	hi := message(opInit, 0, uint32(7), uint32(41), uint32(1<<17), uint32(0xffffffff))
	both := append(hi, message(opLookup, rootNode, "0")...)
	go func() {
		for _, b := range both { // however it is cut
			_, _ = guest.Write([]byte{b})
		}
	}()
	for _, want := range []int{headerOut + 64, headerOut + entrySize} {
		answer := make([]byte, want)
		if _, err := io.ReadFull(guest, answer); err != nil || int(binary.LittleEndian.Uint32(answer)) > headerOut+entrySize {
			t.Fatalf("% x, %v", answer, err)
		}
	}
	_ = guest.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestWrongLengthEndsTheStream(t *testing.T) {
	for _, n := range []uint32{0, headerIn - 1, maxIn + 1, 1<<32 - 1} {
		s := New(Owner{}, time.Now)
		in := bytes.NewReader(binary.LittleEndian.AppendUint32(nil, n))
		if err := s.Serve(struct {
			io.Reader
			io.Writer
		}{in, io.Discard}); !errors.Is(err, ErrProtocol) {
			t.Errorf("length %d: %v", n, err)
		}
	}
}

// FuzzServe feeds a server of a folder whatever a guest may send: it may be
// answered or refused, and nothing beside the folder is touched.
func FuzzServe(f *testing.F) {
	f.Add(message(opInit, 0, uint32(7), uint32(41), uint32(0), uint32(0)))
	f.Add(append(message(opLookup, rootNode, "0"), message(opCreate, 2, uint32(2), uint32(0o644), uint32(0), uint32(0), "x")...))
	f.Add(append(message(opLookup, rootNode, "0"), message(opRename2, 2, uint64(2), uint32(2), uint32(0), "../a", "b")...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "mount")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s := New(Owner{1000, 1000}, time.Now)
		if err := s.Add(Mount{ID: "0", Host: dir}); err != nil {
			t.Fatal(err)
		}
		_ = s.Serve(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(stream), io.Discard})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if names, _ := os.ReadDir(top); len(names) != 1 || names[0].Name() != "mount" {
			t.Errorf("beside the mount: %v", names)
		}
	})
}
