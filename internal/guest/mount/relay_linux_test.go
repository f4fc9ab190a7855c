package mount

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// TestRelayLetsGoOfItsDeviceLast: the host goes away while nothing is asked of it. Who
// waits for the device is woken, and until then its number is nobody else's.
func TestRelayLetsGoOfItsDeviceLast(t *testing.T) {
	var device [2]int
	if err := unix.Pipe2(device[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(device[1])
	hostIn, in := io.Pipe()
	gone, out := io.Pipe()
	r, err := newRelay(device[0], &Stream{In: hostIn, Out: struct {
		io.Reader
		io.WriteCloser
	}{gone, out}})
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	_ = in.Close()
	ended := make(chan struct{})
	go func() {
		r.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for a device that nobody writes to")
	}
	if _, err := unix.Write(device[1], []byte{0}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("the device is still open: %v", err)
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
