package ui

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// terminal opens a pseudo-terminal and gives the program's end of it.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return slave
}

func resize(t *testing.T, tty *os.File, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
}

func TestStreamsOnATerminal(t *testing.T) {
	tty := terminal(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		out                       *os.File
		env                       map[string]string
		interactive, color, moves bool
	}{
		{tty, map[string]string{"TERM": "xterm"}, true, true, true},
		{tty, map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, true, false, true},
		{tty, map[string]string{"TERM": "dumb"}, true, false, false},
		{null, map[string]string{"TERM": "xterm"}, false, true, true},
	} {
		s := NewStreams(tty, c.out, tty, func(name string) string { return c.env[name] })
		if s.Interactive() != c.interactive || s.Color != c.color || s.Moves != c.moves {
			t.Errorf("%v: got interactive %v, colour %v, moves %v", c, s.Interactive(), s.Color, s.Moves)
		}
	}
	resize(t, tty, 132, 43)
	s := NewStreams(tty, null, tty, func(string) string { return "xterm" })
	if got, want := s.Size(), (wire.Size{Columns: 132, Rows: 43}); got != want {
		t.Errorf("size %v, want %v", got, want)
	}
	s = NewStreams(null, null, null, func(string) string { return "xterm" })
	if got, want := s.Size(), (wire.Size{Columns: 80, Rows: 24}); got != want || s.Moves || s.InTTY {
		t.Errorf("without a terminal: size %v, moves %v, terminal %v", got, s.Moves, s.InTTY)
	}
}

func TestRawIsUndone(t *testing.T) {
	tty := terminal(t)
	s := NewStreams(tty, tty, tty, func(string) string { return "xterm" })
	mode := func() *unix.Termios {
		mode, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return mode
	}
	before := mode()
	restore, err := s.Raw()
	if err != nil {
		t.Fatal(err)
	}
	if mode().Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Error("the terminal still edits, echoes or makes signals of keys")
	}
	restore()
	restore()
	if diff := cmp.Diff(before, mode()); diff != "" {
		t.Error(diff)
	}
}

func TestResizesAreReported(t *testing.T) {
	tty := terminal(t)
	s := NewStreams(tty, tty, tty, func(string) string { return "xterm" })
	sizes, stop := s.Resizes()
	defer stop()
	for _, want := range []wire.Size{{Columns: 100, Rows: 30}, {Columns: 50, Rows: 10}} {
		resize(t, tty, want.Columns, want.Rows)
		if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-sizes:
			if got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the size %v was never reported", want)
		}
	}
	stop()
	stop()
}
