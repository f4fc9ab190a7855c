package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/sandbox"
)

// console makes the console log of a sandbox of the world.
func console(t *testing.T, w *fakeWorld, name, text string) string {
	t.Helper()
	folder, err := w.app.folder(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, folder.Console(), text, os.O_TRUNC)
	return folder.Console()
}

func write(t *testing.T, path, text string, how int) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|how, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(file, text); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLogs(t *testing.T) {
	for _, c := range []struct {
		line, out string
		terminal  bool
	}{
		{"logs box", "one\r\n\x1b[2Jtwo", false},
		{"logs box", "one\ntwo", true}, // nothing of the guest moves the user's cursor
		{"logs --supervisor box", "", false},
		{"logs --network box", "{}\n", false},
	} {
		w := newWorld(t)
		w.add("box", sandbox.Stopped)
		write(t, filepath.Join(filepath.Dir(console(t, w, "box", "one\r\n\x1b[2Jtwo")), "network.log"), "{}\n", os.O_TRUNC)
		w.app.Streams.OutTTY = c.terminal
		w.run(t, c.line, want{out: c.out})
	}
}

// A log is followed while it grows, is cut, and is replaced, up to the end of
// the sandbox.
func TestFollowLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	reader, writer := io.Pipe()
	ended, done := make(chan struct{}), make(chan error, 1)
	go func() {
		err := followLog(t.Context(), writer, path, ended)
		_ = writer.Close()
		done <- err
	}()
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(reader, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v, want %q", got, err, want)
		}
	}
	write(t, path, "first line\n", os.O_APPEND)
	expect("first line\n")
	write(t, path, "second line\n", os.O_APPEND)
	expect("second line\n")
	write(t, path, "cut\n", os.O_TRUNC)
	expect("cut\n")
	other := path + ".new"
	write(t, other, "replaced, and longer than before\n", os.O_TRUNC)
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	expect("replaced, and longer than before\n")
	close(ended)
	if rest, err := io.ReadAll(reader); err != nil || len(rest) > 0 {
		t.Errorf("then read %q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowLogEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "all of it", 0)
	var out bytes.Buffer
	if err := followLog(ctx, &out, path, nil); !errors.Is(err, programExit(130)) || out.String() != "all of it" {
		t.Errorf("got %q, %v", &out, err)
	}
}
