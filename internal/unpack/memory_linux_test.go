package unpack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

const memoryChild = "SMOLVM_TEST_MEMORY_CHILD"

// However many files are written at a time and by however many goroutines, the
// memory stays bounded. The peak is a whole process's, so it is measured in a
// child: this test's own program.
func TestMemoryIsBounded(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestMemoryChild$", "-test.v")
	child.Env = append(os.Environ(), memoryChild+"="+t.TempDir(), "GOMAXPROCS=16")
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, rest, found := strings.Cut(string(out), "peak ")
	value, _, _ := strings.Cut(rest, " kB")
	peak, err := strconv.Atoi(value)
	if !found || err != nil {
		t.Fatalf("the child says %q", out)
	}
	t.Logf("peak %d KiB", peak)
	if limit := memory >> 10; peak > limit {
		t.Errorf("%d KiB at the peak, at most %d are allowed", peak, limit)
	}
}

// Four files of 128 MiB from incompressible frames, 64 goroutines each.
func TestMemoryChild(t *testing.T) {
	folder := os.Getenv(memoryChild)
	if folder == "" {
		t.Skip("is run by TestMemoryIsBounded")
	}
	frame, ix := repeated(t, 16)
	decoder, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	group, ctx := errgroup.WithContext(t.Context())
	for n := range 4 {
		group.Go(func() error {
			return expandRepeated(ctx, decoder, ix, frame, filepath.Join(folder, fmt.Sprint(n)))
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println("peak", strings.TrimSpace(strings.SplitN(peak, "\n", 2)[0]))
}

// repeated is an index that has one frame of noise n times.
func repeated(t *testing.T, n int64) ([]byte, Index) {
	t.Helper()
	data := make([]byte, FrameSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	frame := encode(t, data)
	ix := Index{Schema: 1, FrameSize: FrameSize, Size: n * FrameSize}
	for i := range n {
		ix.Frames = append(ix.Frames, Frame{
			Offset: i * int64(len(frame)), Length: int64(len(frame)),
			Compressed: hexDigest(sha256.Sum256(frame)), Content: hexDigest(sha256.Sum256(data)),
		})
	}
	return bytes.Clone(frame), ix
}

func expandRepeated(ctx context.Context, decoder *Decoder, ix Index, frame []byte, path string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer out.Close()
	w, err := NewWriter(decoder, ix, out)
	if err != nil {
		return err
	}
	group, writing := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range ix.Frames {
		group.Go(func() error { return w.Packed(writing, i, frame) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	missing, err := w.Missing(ctx)
	if len(missing) > 0 {
		return fmt.Errorf("%v are missing", missing)
	}
	return err
}
