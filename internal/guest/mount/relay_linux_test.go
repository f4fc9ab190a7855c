package mount

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzNext reads messages of whatever the host's end of the port may carry: each
// is as long as it says, none is longer than what the kernel takes.
func FuzzNext(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{15, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		buf := make([]byte, maxOut)
		in := bufio.NewReader(bytes.NewReader(stream))
		for rest := stream; ; {
			message, err := next(in, buf)
			if err != nil {
				return
			}
			if len(message) < leastOut || len(message) != int(binary.LittleEndian.Uint32(message)) || !bytes.Equal(message, rest[:len(message)]) {
				t.Fatalf("% x of % x", message, rest)
			}
			rest = rest[len(message):]
		}
	})
}

func TestTooLongMessageEndsTheRelay(t *testing.T) {
	for _, n := range []uint32{0, leastOut - 1, maxOut + 1, 1<<32 - 1} {
		in := bufio.NewReader(bytes.NewReader(binary.LittleEndian.AppendUint32(nil, n)))
		if _, err := next(in, make([]byte, maxOut)); err == nil || err == io.EOF {
			t.Errorf("length %d: %v", n, err)
		}
	}
}

func TestTargetsAreMade(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		path string
		file bool
	}{{"a/b/c", false}, {"a/file", true}, {"a/b", false}, {"a/file", true}} {
		if err := makeTarget(filepath.Join(dir, c.path), c.file); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(filepath.Join(dir, c.path)); err != nil || info.IsDir() == c.file {
			t.Errorf("%s: %v, %v", c.path, info, err)
		}
	}
	if makeTarget(filepath.Join(dir, "a/file"), false) == nil || makeTarget(filepath.Join(dir, "a/b"), true) == nil ||
		makeTarget(filepath.Join(dir, "a/file/x"), false) == nil {
		t.Error("a target of the other kind was taken")
	}
}
