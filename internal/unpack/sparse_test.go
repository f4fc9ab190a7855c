package unpack

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// zeroDigest is a digest like any other where nothing is compared with it.
const zeroDigest = "0000000000000000000000000000000000000000000000000000000000000000"

// allocated is what a file takes on the disk, in bytes, after all is written.
func allocated(t testing.TB, f *os.File) int64 {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Skip("no block count on this system")
	}
	return stat.Blocks * 512
}

// sparse fails when f takes more than its data and some of the file system's own
// blocks. It says nothing where the file system has no holes.
func sparse(t testing.TB, f *os.File, data []byte) {
	t.Helper()
	var blocks int64
	for at := 0; at < len(data); at += block {
		if !isZero(data[at:min(at+block, len(data))]) {
			blocks++
		}
	}
	if got := allocated(t, f); got > blocks*block*102/100+64<<10 {
		t.Errorf("%d bytes are allocated for %d bytes in blocks that hold anything", got, blocks*block)
	}
}

// holey is a file of noise with holes of one block and more at the start, at the
// end and everywhere between.
func holey(seed uint64, size int) []byte {
	data := make([]byte, size)
	noise := rand.New(rand.NewPCG(seed, 5))
	for at := (1 + noise.IntN(40)) * block; at < size-block; {
		n := (1 + noise.IntN(40)) * block
		for i := at; i < min(at+n, size-block); i++ {
			data[i] = byte(noise.Uint32())
		}
		at += n + (1+noise.IntN(20))*block
	}
	return data
}

// Not a block more than the finest copy that knows holes.
func TestAllocatesAsMuchAsCopy(t *testing.T) {
	for seed := range uint64(4) {
		data := holey(seed, 2*FrameSize+int(seed)*1777)
		archive, ix := compress(t, data)
		out := empty(t)
		if err := Expand(t.Context(), bytes.NewReader(archive), ix, out, nil); err != nil {
			t.Fatal(err)
		}
		if got := content(t, out); !bytes.Equal(got, data) {
			t.Fatalf("seed %d: the bytes differ", seed)
		}
		sparse(t, out, data)
		if got, want := allocated(t, out), copied(t, out.Name()); got*100 > want*102 {
			t.Errorf("seed %d: %d bytes allocated, cp --sparse=always needs %d", seed, got, want)
		}
	}
}

// copied is what `cp --sparse=always` of a file allocates.
func copied(t testing.TB, path string) int64 {
	t.Helper()
	cp, err := exec.LookPath("cp")
	if err != nil {
		t.Skip("no cp here")
	}
	name := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.CommandContext(t.Context(), cp, "--sparse=always", path, name).CombinedOutput(); err != nil {
		t.Skipf("cp knows no --sparse=always here: %s", out)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return allocated(t, f)
}

// Where holes cannot be made, older bytes are overwritten with zeros. This needs
// no such file system: a Writer is told that it cannot. What a real one does is
// in TestFileSystemWithoutHoles, which needs root.
func TestWithoutPunchingHoles(t *testing.T) {
	data := sample()
	archive, ix := compress(t, data)
	w, out := writer(t, ix, bytes.Repeat([]byte("old "), len(data)/4+FrameSize))
	w.punch = func(*os.File, int64, int64) error { return errors.ErrUnsupported }
	for i := range ix.Frames {
		if err := w.Packed(t.Context(), i, part(archive, ix, i)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(content(t, out), data) {
		t.Error("old bytes show through")
	}
	if got := missing(t, w); len(got) > 0 {
		t.Errorf("%v are missing", got)
	}
}

// An error of the disk is not taken for "cannot".
func TestPunchErrorsAreKept(t *testing.T) {
	_, ix := compress(t, sample())
	w, _ := writer(t, ix, bytes.Repeat([]byte("old "), int(ix.Size/4)))
	w.punch = func(*os.File, int64, int64) error { return syscall.EIO }
	if err := w.Zero(t.Context(), 1); !errors.Is(err, syscall.EIO) {
		t.Errorf("err = %v", err)
	}
}

// Where a file cannot be written past the page cache, everything goes through it.
func TestWithoutDirectWrites(t *testing.T) {
	data := sample()
	archive, ix := compress(t, data)
	for name, direct := range map[string]io.WriterAt{
		"cannot be opened": nil,
		"invalid":          refusing{syscall.EINVAL},
		"unsupported":      refusing{syscall.EOPNOTSUPP},
	} {
		t.Run(name, func(t *testing.T) {
			w, out := writer(t, ix, nil)
			w.direct = direct
			for i := range ix.Frames {
				if err := w.Packed(t.Context(), i, part(archive, ix, i)); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(content(t, out), data) {
				t.Error("the bytes differ")
			}
			sparse(t, out, data)
		})
	}
}

// An error of the disk is not taken for "cannot" here either.
func TestDirectErrorsAreKept(t *testing.T) {
	archive, ix := compress(t, sample())
	w, _ := writer(t, ix, nil)
	w.direct = refusing{syscall.ENOSPC}
	if err := w.Packed(t.Context(), 2, part(archive, ix, 2)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("err = %v", err)
	}
}

type refusing struct{ err error }

func (r refusing) WriteAt([]byte, int64) (int, error) { return 0, r.err }

// Bytes at any address in memory are right: a direct write needs aligned ones.
func TestPlainFromAnyAddress(t *testing.T) {
	data := append([]byte{0}, holey(9, FrameSize+3*block+17)...)
	_, ix := compress(t, data[1:])
	w, out := writer(t, ix, nil)
	for i := range ix.Frames {
		if err := w.Plain(t.Context(), i, data[1+ix.Place(i):][:ix.Length(i)]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(content(t, out), data[1:]) {
		t.Error("the bytes differ")
	}
}
