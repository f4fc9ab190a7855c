package unpack

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// program makes frames with the ordinary zstd.
func program(t *testing.T, args ...string) Encode {
	t.Helper()
	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("zstd is missing: install zstd")
	}
	return func(ctx context.Context, data []byte) ([]byte, error) {
		all := append([]string{"-q", "-c", "--single-thread", "--no-check", "--stream-size=" + strconv.Itoa(len(data))}, args...)
		cmd := exec.CommandContext(ctx, tool, all...)
		cmd.Stdin = bytes.NewReader(data)
		return cmd.Output()
	}
}

// text is three frames that pack well, the second of zeros.
func text() []byte {
	data := []byte(strings.Repeat("All work and no play makes Jack a dull boy.\n", 500_000))
	clear(data[FrameSize : 2*FrameSize])
	return data
}

// TestFramesOfAnotherEncoder packs with the zstd program: readers cannot tell, and
// the same bytes come twice.
func TestFramesOfAnotherEncoder(t *testing.T) {
	data := text()
	var archives [2]bytes.Buffer
	for i := range archives {
		index, archive, content, err := CompressWith(t.Context(), bytes.NewReader(data), int64(len(data)), &archives[i], program(t, "-12"))
		if err != nil {
			t.Fatal(err)
		}
		if archive.Size != int64(archives[i].Len()) || content.Size != int64(len(data)) || len(index.Frames) != 3 || !index.Frames[1].Zero {
			t.Errorf("archive %v, content %v, %d frames", archive, content, len(index.Frames))
		}
		dst, err := os.Create(filepath.Join(t.TempDir(), "expanded"))
		if err != nil {
			t.Fatal(err)
		}
		defer dst.Close()
		if err := Expand(t.Context(), bytes.NewReader(archives[i].Bytes()), index, dst, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, data) {
			t.Errorf("other bytes came back (%v)", err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("the same bytes gave two archives")
	}
}

func TestFramesOfAnEncoderThatIsWrong(t *testing.T) {
	data := []byte(strings.Repeat("text ", 10_000))
	broken := errors.New("it broke")
	for name, test := range map[string]struct {
		encode Encode
		want   error
	}{
		"other bytes": {func(ctx context.Context, data []byte) ([]byte, error) {
			return program(t)(ctx, bytes.ToUpper(data))
		}, ErrDigest},
		"no size":  {program(t, "--no-content-size"), ErrFormat},
		"no frame": {func(context.Context, []byte) ([]byte, error) { return []byte("nothing of the kind"), nil }, ErrFormat},
		"nothing":  {func(context.Context, []byte) ([]byte, error) { return nil, nil }, ErrFormat},
		"too much": {func(_ context.Context, data []byte) ([]byte, error) { return make([]byte, len(data)+overhead+1), nil }, ErrFormat},
		"two frames": {func(ctx context.Context, data []byte) ([]byte, error) {
			one, err := program(t)(ctx, data)
			return append(one, one...), err
		}, ErrDigest},
		"failure": {func(context.Context, []byte) ([]byte, error) { return nil, broken }, broken},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := CompressWith(t.Context(), bytes.NewReader(data), int64(len(data)), &bytes.Buffer{}, test.encode)
			if !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}
