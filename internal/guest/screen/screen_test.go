package screen

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/vt"

	"github.com/smolvm/smolvm/internal/wire"
)

var small = wire.Size{Columns: 20, Rows: 5}

func newScreen(t *testing.T, size wire.Size) *Screen {
	t.Helper()
	s := New(size, func([]byte) {})
	t.Cleanup(s.Close)
	return s
}

// terminal is one of somebody who looks at a screen.
func terminal(t *testing.T, size wire.Size) *vt.Emulator {
	t.Helper()
	e := vt.NewEmulator(int(size.Columns), int(size.Rows))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			if _, err := e.Read(buf); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = e.InputPipe().(interface{ Close() error }).Close(); <-done })
	return e
}

// shows compares what two terminals show.
func shows(t *testing.T, what string, got, want *vt.Emulator) {
	t.Helper()
	if got.Render() != want.Render() {
		t.Errorf("%s: it shows\n%q\nwant\n%q", what, got.Render(), want.Render())
	}
	if got.CursorPosition() != want.CursorPosition() || got.IsAltScreen() != want.IsAltScreen() || got.CursorHidden() != want.CursorHidden() {
		t.Errorf("%s: cursor at %v (hidden %v, other screen %v), want %v (%v, %v)", what, got.CursorPosition(), got.CursorHidden(),
			got.IsAltScreen(), want.CursorPosition(), want.CursorHidden(), want.IsAltScreen())
	}
}

// Whoever comes later sees what somebody who was there all the time sees, also
// after both went on.
func TestRedrawShowsTheSame(t *testing.T) {
	for name, output := range map[string]string{
		"text":          "one\r\ntwo \x1b[1;31mred\x1b[0m\r\n",
		"scrolled":      strings.Repeat("a line\r\n", 30) + "last",
		"wide":          "日本語 é e\u0301 👩‍👩‍👧 x\r\n",
		"colours":       "\x1b[38;5;123mx\x1b[48;2;1;2;3my\x1b[4:3mz",
		"full screen":   "shell$ vi\r\n\x1b[?1049h\x1b[2;3Hin the editor\x1b[?25l",
		"back":          "shell$ vi\r\n\x1b[?1049h\x1b[2;3Hin the editor\x1b[?1049l$ ",
		"scroll region": "\x1b[2;4r\x1b[2;1Ha\r\nb\r\nc\r\nd\r\ne",
		"saved cursor":  "abc\x1b7\x1b[4;4Hx\x1b8y",
		"whole lines":   strings.Repeat("x", 20) + strings.Repeat("y", 20) + "z",
		"line drawing":  "\x1b(0lqqk",
		"erased":        "abc\r\ndef\x1b[1;2H\x1b[44m\x1b[K",
	} {
		s := newScreen(t, small)
		there := terminal(t, small)
		_, _ = there.Write(s.Write([]byte(output)))
		later := terminal(t, small)
		_, _ = later.WriteString("what was here before\r\n$ smolvm attach\r\n")
		redraw, _ := s.Redraw(int(small.Rows))
		_, _ = later.Write(redraw)
		shows(t, name, later, there)
		more := s.Write([]byte("q\r\nmore\x1b[A!"))
		_, _ = there.Write(more)
		_, _ = later.Write(more)
		shows(t, name+", gone on", later, there)
		again, _ := s.Redraw(0)
		_, _ = later.Write(again)
		shows(t, name+", drawn again", later, there)
		// The emulator hides the cursor on each screen apart, real terminals do not.
		_, _ = there.WriteString("\x1b[?1049l\x1b[?25h")
		_, _ = later.WriteString("\x1b[?1049l\x1b[?25h")
		shows(t, name+", main screen", later, there)
	}
}

// Programs that were made for the console save the cursor that way.
func TestTheConsolesSavedCursor(t *testing.T) {
	s := newScreen(t, small)
	s.Write([]byte("abc\x1b[s\x1b[4;4Hx\x1b[uy"))
	s.Draw()
	if got := s.emulator.String(); got != "abcy\n\n\n   x\n" {
		t.Errorf("it shows %q", got)
	}
}

func TestRedrawTellsModes(t *testing.T) {
	s := newScreen(t, small)
	s.Write([]byte("\x1b[?2004h\x1b[?1002;1006h\x1b[?1h\x1b=\x1b[>1u\x1b[>5u\x1b[<u\x1b[>4;2m\x1b]0;fixing \x01it\a\x1b[5 q\x1b[?7l"))
	redraw, _ := s.Redraw(5)
	for _, want := range []string{
		"\x1b[?2004h", "\x1b[?1002h", "\x1b[?1006h", "\x1b[?1h", "\x1b=", "\x1b[=1;1u", "\x1b[>4;2m", "\x1b]2;fixing it\a", "\x1b[5 q",
	} {
		if !bytes.Contains(redraw, []byte(want)) {
			t.Errorf("%q lacks %q", redraw, want)
		}
	}
	if bytes.Contains(redraw, []byte("\x1b[?7h")) {
		t.Errorf("%q wraps lines", redraw)
	}
	s.Write([]byte("\x1bc"))
	if redraw, _ = s.Redraw(5); bytes.Contains(redraw, []byte("2004h")) || bytes.Contains(redraw, []byte(";1u")) {
		t.Errorf("after a reset: %q", redraw)
	}
}

// Pieces end where sequences and characters do, and no byte is lost.
func TestWriteCutsAtTheEndsOfSequences(t *testing.T) {
	output := []byte("a\x1b[1;31mé\x1b]0;title\x1b\\b\x1bP1$r0m\x1b\\日\x1b[?25h\r\n")
	whole := map[int]bool{}
	s := newScreen(t, small)
	for i := range output {
		if got := s.Write(output[i : i+1]); len(got) > 0 {
			whole[i+1] = true
		}
	}
	for _, cut := range []int{2, 4, 7, 9, 15, 20, len(output) - 4} {
		if whole[cut] {
			t.Errorf("%q is not whole", output[:cut])
		}
	}
	source := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s, seen := newScreen(t, small), []byte{}
		for rest := output; len(rest) > 0; {
			n := 1 + source.IntN(len(rest))
			seen = append(seen, s.Write(rest[:n])...)
			rest = rest[n:]
		}
		if !bytes.Equal(seen, output) {
			t.Fatalf("got %q", seen)
		}
	}
}

// strung are the sequences that hold a string, with how each ends.
var strung = map[string]string{"]0;": "\a", "]2;": "\x1b\\", "P1$r": "\x1b\\", "X": "\x1b\\", "^": "\x1b\\", "_G": "\x1b\\"}

// The bytes of a character are no controls: a string ends where it ends, wherever
// the program's output is cut.
func TestCharactersInStrings(t *testing.T) {
	for begin, end := range strung {
		for _, text := range []string{"✳ Claude Code", "✓", "Ü", "a “word” …", "日本語 👩"} {
			s, output, seen := newScreen(t, small), "\x1b[2;3HX\x1b"+begin+text+end+"Y", 0
			for i := range len(output) {
				seen += len(s.Write([]byte(output[i : i+1])))
				s.Draw()
			}
			if got := s.emulator.String(); got != "\n  XY\n\n\n" || seen != len(output) {
				t.Errorf("after %q it shows %q; %d bytes of %d came out", output, got, seen, len(output))
			}
			if begin[0] == ']' && s.Title() != text {
				t.Errorf("after %q the title is %q", output, s.Title())
			}
			redraw, _ := s.Redraw(5)
			if begin[0] == ']' && !bytes.Contains(redraw, []byte("\x1b]2;"+text+"\a")) {
				t.Errorf("after %q the title is not in %q", output, redraw)
			}
		}
	}
}

// A byte that is a control only in tables of 1991 begins no string that swallows the
// rest.
func TestBytesThatAreNoUTF8(t *testing.T) {
	s := newScreen(t, small)
	s.Write([]byte("a\x9db\x90c\x9b5;5Hd\r\n"))
	s.Draw()
	if got := s.emulator.String(); got != "a?b?c?5;5Hd\n\n\n\n" {
		t.Errorf("it shows %q", got)
	}
}

func TestLinksKeepTheirCharacters(t *testing.T) {
	s := newScreen(t, small)
	s.Write([]byte("\x1b]8;;file:///tmp/Übersicht\x1b\\here\x1b]8;;\x1b\\"))
	if redraw, _ := s.Redraw(5); !bytes.Contains(redraw, []byte("file:///tmp/Übersicht")) {
		t.Errorf("the link is not in %q", redraw)
	}
}

func TestATitleMayHaveASemicolon(t *testing.T) {
	s := newScreen(t, small)
	s.Write([]byte("\x1b]0;fix; then test\a"))
	s.Draw()
	if s.Title() != "fix; then test" {
		t.Errorf("the title is %q", s.Title())
	}
}

func FuzzStrings(f *testing.F) {
	for _, text := range []string{"✳ Claude Code", "✓ Ü “", "\u009c\u009d", "\u05dc\u6f9c"} {
		f.Add(text, uint16(2))
	}
	f.Fuzz(func(t *testing.T, text string, cut uint16) {
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
			t.Skip("no text")
		}
		for begin, end := range strung {
			s := New(small, func([]byte) {})
			output := []byte("X\x1b" + begin + text + end + "Y")
			at := int(cut) % len(output)
			s.Write(output[:at])
			s.Draw()
			s.Write(output[at:])
			s.Draw()
			if got := s.emulator.String(); got != "XY\n\n\n\n" {
				t.Errorf("after %q it shows %q", output, got)
			}
			if begin[0] == ']' && s.Title() != clean(text) {
				t.Errorf("after %q the title is %q, want %q", output, s.Title(), clean(text))
			}
			s.Close()
		}
	})
}

func TestAnEndlessSequenceIsPassedOn(t *testing.T) {
	s := newScreen(t, small)
	got := len(s.Write([]byte("\x1bPq")))
	for range 40 {
		got += len(s.Write(bytes.Repeat([]byte("#"), 4096)))
	}
	if got < 90<<10 || len(s.output) > maxPending+maxPartial+4096 {
		t.Errorf("%d bytes came out, %d are held", got, len(s.output))
	}
	s.Write([]byte("\x1b\\after"))
	if redraw, _ := s.Redraw(5); !bytes.Contains(redraw, []byte("after")) {
		t.Errorf("%q", redraw)
	}
}

// What is left out of long text cannot be told from the whole.
func TestLongTextIsDrawnExactly(t *testing.T) {
	source := rand.New(rand.NewPCG(3, 4))
	pieces := []string{
		"\r\n", "\r\n", "\r\n", "plain", "\x1b[32m", "\x1b[1m", "\x1b[0m", "\x1b[K", "\t", strings.Repeat("w", 25), "\n", "é", "\b", "\x1b[A", "\x1b[3;3H",
	}
	for round := range 100 {
		s, there := newScreen(t, small), terminal(t, small)
		kinds := len(pieces) - round%3
		for range 400 {
			p := []byte(pieces[source.IntN(kinds)])
			s.Write(p)
			_, _ = there.Write(p)
			if source.IntN(100) == 0 {
				s.Draw()
			}
		}
		s.Draw()
		shows(t, fmt.Sprintf("round %d", round), s.emulator, there)
	}
}

func TestLongTextIsQuick(t *testing.T) {
	s := newScreen(t, wire.Size{Columns: 200, Rows: 50})
	begun := time.Now()
	line := []byte("\x1b[32mok\x1b[0m  some/package\t0.1s\r\n")
	for range 8 << 20 / len(line) {
		s.Write(line)
	}
	s.Draw()
	if took := time.Since(begun); took > 5*time.Second { // with every line drawn, 12 s on a fast computer
		t.Errorf("8 MiB of lines took %v", took)
	}
}

func TestChangesBringAViewUpToDate(t *testing.T) {
	large := wire.Size{Columns: 30, Rows: 8}
	s, there := newScreen(t, small), terminal(t, large)
	redraw, view := s.Redraw(8)
	_, _ = there.Write(redraw)
	for _, p := range []string{
		"hello\r\n", strings.Repeat("x", 45), strings.Repeat("line\r\n", 9), "\x1b[?1049h\x1b[3;3Hhere", "\x1b[2;4r\x1b[4;1H\nscrolled", "\x1b[?1049l", "\x1b]0;t\a",
	} {
		s.Write([]byte(p))
		var out []byte
		out, view = s.Changes(view)
		_, _ = there.Write(out)
		for y := range int(large.Rows) {
			for x := range int(large.Columns) {
				want := " "
				if cell := s.emulator.CellAt(x, y); cell != nil {
					want = cell.Content
				}
				if got := there.CellAt(x, y); got.Content != want {
					t.Fatalf("after %q: at %d,%d %q, want %q", p, x, y, got.Content, want)
				}
			}
		}
		if there.CursorPosition() != s.emulator.CursorPosition() {
			t.Errorf("after %q: cursor at %v, want %v", p, there.CursorPosition(), s.emulator.CursorPosition())
		}
	}
}

func TestResizeKeepsTheLineOfTheCursor(t *testing.T) {
	s := newScreen(t, wire.Size{Columns: 20, Rows: 10})
	s.Write([]byte("1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7\r\n$ ls"))
	s.Resize(wire.Size{Columns: 20, Rows: 3})
	if got := s.emulator.String(); got != "6\n7\n$ ls" {
		t.Errorf("it shows %q", got)
	}
	s.Resize(wire.Size{})
	s.Resize(wire.Size{Columns: 9999, Rows: 9999})
	if s.Size() != (wire.Size{Columns: MaxColumns, Rows: MaxRows}) {
		t.Errorf("size %v", s.Size())
	}
}

func TestTheOtherScreenDoesNotGrow(t *testing.T) {
	s, there := newScreen(t, small), terminal(t, small)
	show := func(p string) {
		_, _ = there.WriteString(p)
		s.Write([]byte(p))
	}
	show("\x1b[?1049h")
	for i := range 3000 {
		show(fmt.Sprintf("line %d 日\r\n", i))
		if i%100 == 0 {
			s.Draw()
		}
	}
	s.Draw()
	shows(t, "after many lines", s.emulator, there)
	if s.track.altLines > maxAltLines {
		t.Errorf("%d lines are kept", s.track.altLines)
	}
}

func TestLastIsText(t *testing.T) {
	s := newScreen(t, small)
	s.Write([]byte("\x1b[?1049h\x1b[2;1Hbye \x1b[31mred\x1b[0m\x1b[?25l"))
	if got := string(s.Last()); got != "\x1b[0m\r\nbye \x1b[31mred\x1b[m\r\n" {
		t.Errorf("%q", got)
	}
}

func TestQuestionsAreAnswered(t *testing.T) {
	var said []byte
	s := New(small, func(p []byte) { said = append(said, p...) })
	s.Write([]byte("ab\x1b[6n"))
	s.Draw()
	s.Close() // waits for the replies
	if string(said) != "\x1b[1;3R" {
		t.Errorf("answered %q", said)
	}
}

func TestTitlesAndLinksAreBounded(t *testing.T) {
	s := newScreen(t, small)
	s.Write([]byte("\x1b]0;" + strings.Repeat("é", 5000) + "\a\x1b]8;;http://" + strings.Repeat("x", 5000) + "\x1b\\link\x1b]8;;\x1b\\"))
	redraw, _ := s.Redraw(5)
	if len(s.Title()) > maxTitle || len(redraw) > 2000 {
		t.Errorf("a title of %d bytes, a redraw of %d", len(s.Title()), len(redraw))
	}
}

func FuzzScreen(f *testing.F) {
	f.Add([]byte("\x1b[?1049h\x1b[3;2r\x1b[999999999S\x1b[u\x1b[>1u\x1b[<9u\x1b[=5;9u日\xff\xfe\x9b5;5H"), uint16(3), uint16(2))
	f.Add([]byte("\x1b[9999999@\x1b[5L\x1b[7M\x1b[4;1r\x1b[?6h\x1bM\x1bD\x1bc\x1b]8;;x\a\x1bP\x1b\\"), uint16(1), uint16(1))
	f.Add([]byte("x\x1b[2000000000b\x1b[2000000000I\x1b[2000000000Z"), uint16(80), uint16(24))
	f.Fuzz(func(t *testing.T, output []byte, columns, rows uint16) {
		size := wire.Size{Columns: columns%100 + 1, Rows: rows%50 + 1}
		s := New(size, func([]byte) {})
		defer s.Close()
		half := len(output) / 2
		seen := append([]byte{}, s.Write(output[:half])...)
		s.Resize(wire.Size{Columns: rows%100 + 1, Rows: columns%50 + 1})
		_, view := s.Redraw(3)
		seen = append(seen, s.Write(output[half:])...)
		s.Changes(view)
		if !bytes.HasPrefix(output, seen) {
			t.Errorf("%q became %q", output, seen)
		}
	})
}
