package unpack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// sample is an image of three frames and a bit: data with holes at the start,
// inside and at the end, a zero frame, noise, and a last block that is short.
func sample() []byte {
	data := make([]byte, 3*FrameSize+5000)
	noise := rand.New(rand.NewPCG(1, 2))
	for _, span := range [][2]int{{block, 9 * block}, {40*block + 7, 41 * block}, {2 * FrameSize, 2*FrameSize + 1<<20}} {
		for i := span[0]; i < span[1]; i++ {
			data[i] = byte(noise.Uint32())
		}
	}
	copy(data[2*FrameSize+2<<20:], bytes.Repeat([]byte("text that packs well "), 50_000))
	data[len(data)-1] = 1
	return data
}

func compress(t testing.TB, data []byte) ([]byte, Index) {
	t.Helper()
	var out bytes.Buffer
	ix, archive, content, err := Compress(t.Context(), bytes.NewReader(data), int64(len(data)), &out)
	if err != nil {
		t.Fatal(err)
	}
	if got := hexDigest(sha256.Sum256(out.Bytes())); got != archive.SHA256 || archive.Size != int64(out.Len()) {
		t.Errorf("archive digest %v, its bytes have %s, %d", archive, got, out.Len())
	}
	if got := hexDigest(sha256.Sum256(data)); got != content.SHA256 || content.Size != int64(len(data)) {
		t.Errorf("content digest %v, want %s, %d", content, got, len(data))
	}
	return out.Bytes(), ix
}

func empty(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func content(t testing.TB, f *os.File) []byte {
	t.Helper()
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	whole := sample()
	for name, data := range map[string][]byte{
		"sample":     whole,
		"one byte":   {7},
		"one zero":   {0},
		"all zero":   make([]byte, FrameSize+3),
		"one frame":  whole[:FrameSize],
		"frame + 1":  whole[:FrameSize+1],
		"zero block": make([]byte, block),
	} {
		t.Run(name, func(t *testing.T) {
			archive, ix := compress(t, data)
			out := empty(t)
			var last int64
			if err := Expand(t.Context(), bytes.NewReader(archive), ix, out, func(n int64) { last = n }); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, out), data) {
				t.Error("expanded bytes differ")
			}
			if last != int64(len(archive)) {
				t.Errorf("last progress %d, want %d", last, len(archive))
			}
			if bad, err := Verify(t.Context(), ix, out); err != nil || len(bad) > 0 {
				t.Errorf("Verify = %v, %v", bad, err)
			}
		})
	}
}

func TestHolesStayHoles(t *testing.T) {
	archive, ix := compress(t, sample())
	out := empty(t)
	if err := Expand(t.Context(), bytes.NewReader(archive), ix, out, nil); err != nil {
		t.Fatal(err)
	}
	sparse(t, out, sample())
}

// The archive is a plain .zst for every other decoder.
func TestOtherDecodersAgree(t *testing.T) {
	data := sample()
	archive, _ := compress(t, data)

	reader, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, data) {
		t.Errorf("streaming decoder: %d bytes, %v", len(got), err)
	}

	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("no zstd command here")
	}
	cmd := exec.CommandContext(t.Context(), tool, "-dc")
	cmd.Stdin = bytes.NewReader(archive)
	if got, err := cmd.Output(); err != nil || !bytes.Equal(got, data) {
		t.Errorf("zstd -d: %d bytes, %v", len(got), err)
	}
}

func TestCompressIsDeterministic(t *testing.T) {
	first, ix := compress(t, sample())
	second, again := compress(t, sample())
	if !bytes.Equal(first, second) {
		t.Error("two archives of the same bytes differ")
	}
	if d := cmp.Diff(ix, again); d != "" {
		t.Error(d)
	}
	if !ix.Frames[1].Zero || ix.Frames[1].Length > 300 {
		t.Errorf("an empty frame of 8 MiB is stored as %+v", ix.Frames[1])
	}
}

func TestCompressReportsShortSource(t *testing.T) {
	_, _, _, err := Compress(t.Context(), bytes.NewReader(make([]byte, 10)), 11, io.Discard)
	if !errors.Is(err, io.EOF) {
		t.Errorf("err = %v", err)
	}
}

func TestCompressStopsOnWriteErrorAndCancel(t *testing.T) {
	data := make([]byte, 12*FrameSize)
	broken := errors.New("no space")
	_, _, _, err := Compress(t.Context(), bytes.NewReader(data), int64(len(data)), failing{broken})
	if !errors.Is(err, broken) {
		t.Errorf("err = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := Compress(ctx, bytes.NewReader(data), int64(len(data)), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: err = %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
