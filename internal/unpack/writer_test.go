package unpack

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// writer is a Writer of that index over a file that holds old.
func writer(t testing.TB, ix Index, old []byte) (*Writer, *os.File) {
	t.Helper()
	decoder, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(decoder.Close)
	out := empty(t)
	if _, err := out.Write(old); err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(decoder, ix, out)
	if err != nil {
		t.Fatal(err)
	}
	return w, out
}

// part is the archive's piece that frame i is.
func part(archive []byte, ix Index, i int) []byte {
	return archive[ix.Frames[i].Offset:][:ix.Frames[i].Length]
}

func missing(t testing.TB, w *Writer) []int {
	t.Helper()
	list, err := w.Missing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Frames arrive in any order, packed or plain; at every moment Missing tells
// what is not there, and a new Writer goes on.
func TestWriterResumes(t *testing.T) {
	data := sample()
	archive, ix := compress(t, data)
	w, out := writer(t, ix, nil)
	if got, want := missing(t, w), []int{0, 2, 3}; !slices.Equal(got, want) {
		t.Fatalf("of an empty file %v are missing, want %v: a zero frame never is", got, want)
	}
	if err := w.Plain(t.Context(), 2, data[ix.Place(2):][:ix.Length(2)]); err != nil {
		t.Fatal(err)
	}
	if err := w.Packed(t.Context(), 3, part(archive, ix, 3)); err != nil {
		t.Fatal(err)
	}
	again, err := NewWriter(w.decoder, ix, out)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := missing(t, again), []int{0}; !slices.Equal(got, want) {
		t.Fatalf("%v are missing, want %v", got, want)
	}
	if err := again.Packed(t.Context(), 0, part(archive, ix, 0)); err != nil {
		t.Fatal(err)
	}
	if got := missing(t, again); len(got) > 0 {
		t.Errorf("%v are missing", got)
	}
	if !bytes.Equal(content(t, out), data) {
		t.Error("the bytes differ")
	}
}

// Whatever lay in the file before, it is right afterwards, and holes are holes.
func TestWriterClearsOldBytes(t *testing.T) {
	data := sample()
	archive, ix := compress(t, data)
	noise := rand.NewChaCha8([32]byte{3})
	for name, length := range map[string]int{"shorter": FrameSize + 77, "same": len(data), "longer": len(data) + FrameSize} {
		t.Run(name, func(t *testing.T) {
			old := make([]byte, length)
			_, _ = noise.Read(old)
			w, out := writer(t, ix, old)
			all := missing(t, w)
			if length >= len(data) && len(all) != len(ix.Frames) {
				t.Errorf("%v are missing: the zero frame holds noise", all)
			}
			for _, i := range all {
				if err := w.Packed(t.Context(), i, part(archive, ix, i)); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(content(t, out), data) {
				t.Error("old bytes show through")
			}
			sparse(t, out, data)
		})
	}
}

func TestWriterZero(t *testing.T) {
	_, ix := compress(t, sample())
	old := make([]byte, ix.Size)
	old[ix.Place(1)+12345] = 1
	w, out := writer(t, ix, old)
	if got := missing(t, w); !slices.Contains(got, 1) {
		t.Fatalf("missing are %v, without the zero frame that holds a byte", got)
	}
	if err := w.Zero(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := missing(t, w); slices.Contains(got, 1) {
		t.Errorf("missing are %v after Zero(1)", got)
	}
	if kept, err := hasData(out, ix.Place(1), ix.Length(1)); err != nil || kept {
		t.Errorf("the zero frame is no hole: %v, %v", kept, err)
	}
}

// A wrong frame leaves no trace in the file.
func TestWriterRefusesWrongBytes(t *testing.T) {
	data := sample()
	archive, ix := compress(t, data)
	w, out := writer(t, ix, nil)
	good, plain := part(archive, ix, 2), data[ix.Place(2):][:ix.Length(2)]
	flip := func(data []byte) []byte {
		data = bytes.Clone(data)
		data[len(data)/2] ^= 4
		return data
	}
	for name, write := range map[string]func() error{
		"packed":             func() error { return w.Packed(t.Context(), 2, flip(good)) },
		"packed, short":      func() error { return w.Packed(t.Context(), 2, good[:len(good)-1]) },
		"packed, long":       func() error { return w.Packed(t.Context(), 2, append(bytes.Clone(good), 0)) },
		"packed, empty":      func() error { return w.Packed(t.Context(), 2, nil) },
		"packed, other":      func() error { return w.Packed(t.Context(), 2, part(archive, ix, 0)) },
		"packed zero, wrong": func() error { return w.Packed(t.Context(), 1, flip(part(archive, ix, 1))) },
		"plain":              func() error { return w.Plain(t.Context(), 2, flip(plain)) },
		"plain, short":       func() error { return w.Plain(t.Context(), 2, plain[:100]) },
		"plain zero, wrong":  func() error { return w.Plain(t.Context(), 1, plain) },
	} {
		if err := write(); !errors.Is(err, ErrDigest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := content(t, out); int64(len(got)) != ix.Size || !isZero(got) {
		t.Error("wrong bytes were written")
	}
}

func TestWriterStopsWithContext(t *testing.T) {
	archive, ix := compress(t, sample())
	w, _ := writer(t, ix, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	for name, call := range map[string]func() error{
		"packed":  func() error { return w.Packed(ctx, 0, part(archive, ix, 0)) },
		"plain":   func() error { return w.Plain(ctx, 0, nil) },
		"zero":    func() error { return w.Zero(ctx, 1) },
		"missing": func() error { _, err := w.Missing(ctx); return err },
	} {
		if err := call(); !errors.Is(err, reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Any number of goroutines may write; those beyond the slots wait.
func TestWriterFromManyGoroutines(t *testing.T) {
	data := sample()
	archive, ix := compress(t, data)
	w, out := writer(t, ix, nil)
	group, ctx := errgroup.WithContext(t.Context())
	for round := range 4 {
		group.Go(func() error { // each has one frame: no frame is written by two at a time
			for range 5 {
				if err := w.Packed(ctx, round, part(archive, ix, round)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, out), data) {
		t.Error("the bytes differ")
	}
}

// The largest file there may be costs no reading where it has holes.
func TestMissingReadsNoHoles(t *testing.T) {
	ix := Index{Schema: 1, FrameSize: FrameSize, Size: maxSize}
	packed := zeroFrame(FrameSize)
	for i := range maxSize / FrameSize {
		ix.Frames = append(ix.Frames, Frame{
			Offset: int64(i * len(packed)), Length: int64(len(packed)), Compressed: zeroDigest, Zero: true,
		})
	}
	w, out := writer(t, ix, nil)
	if _, err := out.WriteAt([]byte{1}, ix.Place(7)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if got := missing(t, w); !slices.Equal(got, []int{7}) {
		t.Errorf("missing are %v", got)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("%v for a file of holes", took)
	}
}

func TestNewWriterRefuses(t *testing.T) {
	_, ix := one(t)
	decoder, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	if _, err := NewWriter(decoder, Index{}, empty(t)); err == nil {
		t.Error("an empty index was accepted")
	}
	folder, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	if _, err := NewWriter(decoder, ix, folder); err == nil {
		t.Error("a folder was accepted")
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if _, err := NewWriter(decoder, ix, readOnly); err == nil {
		t.Error("a file that cannot be written was accepted")
	}
}

func TestReadFrame(t *testing.T) {
	data := sample()
	_, ix := compress(t, data)
	for i := range ix.Frames {
		got, err := ReadFrame(ix, bytes.NewReader(data), i, make([]byte, 10))
		if err != nil || !bytes.Equal(got, data[ix.Place(i):][:ix.Length(i)]) {
			t.Errorf("frame %d: %d bytes, %v", i, len(got), err)
		}
	}
	changed := bytes.Clone(data)
	changed[ix.Place(1)] = 1
	if _, err := ReadFrame(ix, bytes.NewReader(changed), 1, nil); !errors.Is(err, ErrDigest) {
		t.Errorf("a zero frame that is none: %v", err)
	}
	if _, err := ReadFrame(ix, bytes.NewReader(data[:100]), 0, nil); err == nil || errors.Is(err, ErrDigest) {
		t.Errorf("a short file: %v", err)
	}
}
