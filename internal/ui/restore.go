package ui

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// undone are the private modes that a program may leave set, all of which are off
// in a shell. The alternate screen, and those that are on there, are apart.
var undone = []int{1, 3, 5, 6, 9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2004, 2026, 2027, 2031, 2048}

// Private modes that are treated apart.
const (
	modeWrap   = 7
	modeCursor = 25
	maxParams  = 256 // bytes of a control sequence that are looked at
)

// Terminal passes a program's output on to the user's terminal and remembers what
// it does to it, so that Undo can give the terminal back as it was: a program that
// was left, killed or has crashed does not.
type Terminal struct {
	out   io.Writer
	state terminalState
	text  []byte // of the sequence under way

	modes     map[int]bool
	alternate int    // private mode by which the alternate screen was entered; 0: not in it
	pushed    [2]int // keyboard flags' stack of the main and the alternate screen
	flags     [2]bool
	otherKeys bool
	keypad    bool
	shape     bool
	margins   bool
	charset   bool
	styled    bool
}

type terminalState int

const (
	inText terminalState = iota
	inEscape
	inSequence // CSI
	inString   // OSC, DCS and the like
	inStringEscape
	inCharset
)

// NewTerminal makes a Terminal that writes to out.
func NewTerminal(out io.Writer) *Terminal { return &Terminal{out: out, modes: map[int]bool{}} }

// Write passes p on.
func (t *Terminal) Write(p []byte) (int, error) {
	rest := p
	for len(rest) > 0 {
		if t.state == inText {
			at := bytes.IndexAny(rest, "\x1b\x0e\x0f")
			if at < 0 {
				break
			}
			rest = rest[at:]
		}
		t.take(rest[0])
		rest = rest[1:]
	}
	return t.out.Write(p)
}

// take follows one byte.
func (t *Terminal) take(b byte) {
	switch t.state {
	case inText:
		t.begin(b)
	case inEscape:
		t.escape(b)
	case inSequence:
		t.sequence(b)
	case inCharset:
		t.charset, t.state = t.charset || b != 'B', inText
	case inString:
		if b == escape {
			t.state = inStringEscape
		} else if b == '\a' || b == 0x18 || b == 0x1a {
			t.state = inText
		}
	case inStringEscape:
		if t.state = inText; b != '\\' {
			t.escape(b)
		}
	}
}

func (t *Terminal) begin(b byte) {
	switch b {
	case escape:
		t.state = inEscape
	case 0x0e:
		t.charset = true
	}
}

func (t *Terminal) escape(b byte) {
	t.state = inText
	switch b {
	case escape:
		t.state = inEscape
	case '[':
		t.state, t.text = inSequence, t.text[:0]
	case ']', 'P', 'X', '^', '_':
		t.state = inString
	case '(':
		t.state = inCharset
	case '=':
		t.keypad = true
	case '>':
		t.keypad = false
	case 'c':
		*t = Terminal{out: t.out, text: t.text, modes: map[int]bool{}}
	}
}

func (t *Terminal) sequence(b byte) {
	switch {
	case b == escape:
		t.state = inEscape
	case b == 0x18 || b == 0x1a:
		t.state = inText
	case b < 0x20: // is obeyed in between
	case b < 0x40:
		if len(t.text) < maxParams {
			t.text = append(t.text, b)
		}
	default:
		t.state = inText
		t.obey(string(t.text), b)
	}
}

// obey follows a complete sequence: its parameters and its final byte.
func (t *Terminal) obey(params string, final byte) {
	private, rest := byte(0), params
	if rest != "" && rest[0] >= '<' && rest[0] <= '?' {
		private, rest = rest[0], rest[1:]
	}
	switch {
	case private == '?' && (final == 'h' || final == 'l'):
		for word := range strings.SplitSeq(rest, ";") {
			t.set(number(word, 0), final == 'h')
		}
	case final == 'u' && private != 0:
		t.keys(private, rest)
	case private == '>' && final == 'm':
		t.otherKeys = t.otherKeys || strings.HasPrefix(rest, "4")
	case private != 0:
	case final == 'm':
		t.styled = rest != "" && rest != "0"
	case final == 'r':
		t.margins = rest != ""
	case final == 'q' && strings.HasSuffix(rest, " "):
		t.shape = true
	}
}

func (t *Terminal) set(mode int, on bool) {
	switch mode {
	case 47, 1047, 1049:
		t.alternate = 0
		if on {
			t.alternate = mode
			t.pushed[1], t.flags[1] = 0, false
		}
	case modeWrap, modeCursor:
		t.modes[mode] = !on // off is what is to be undone
	default:
		if slices.Contains(undone, mode) {
			t.modes[mode] = on
		}
	}
}

// keys follows the protocol by which programs ask to be told keys exactly.
func (t *Terminal) keys(how byte, rest string) {
	screen := 0
	if t.alternate != 0 {
		screen = 1
	}
	switch how {
	case '>':
		t.pushed[screen]++
	case '<':
		t.pushed[screen] = max(0, t.pushed[screen]-max(1, number(rest, 1)))
	case '=':
		t.flags[screen] = true
	}
}

func number(text string, otherwise int) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return otherwise
}

// Undo is what gives the terminal back: empty where nothing is to be undone.
func (t *Terminal) Undo() string {
	var out strings.Builder
	if t.state != inText {
		out.WriteString("\x18") // ends what was cut off
	}
	if t.styled {
		out.WriteString("\x1b[0m")
	}
	if t.charset {
		out.WriteString("\x1b(B\x0f")
	}
	for _, mode := range slices.Sorted(maps.Keys(t.modes)) {
		if t.modes[mode] {
			fmt.Fprintf(&out, "\x1b[?%d%c", mode, undoing(mode))
		}
	}
	if t.margins {
		out.WriteString("\x1b7\x1b[r\x1b8")
	}
	if t.alternate != 0 {
		t.undoKeys(&out, 1)
		fmt.Fprintf(&out, "\x1b[?%dl", t.alternate)
	}
	t.undoKeys(&out, 0)
	for _, undo := range []struct {
		needed bool
		text   string
	}{{t.otherKeys, "\x1b[>4m"}, {t.keypad, "\x1b>"}, {t.shape, "\x1b[0 q"}} {
		if undo.needed {
			out.WriteString(undo.text)
		}
	}
	return out.String()
}

func undoing(mode int) byte {
	if mode == modeWrap || mode == modeCursor {
		return 'h'
	}
	return 'l'
}

func (t *Terminal) undoKeys(out *strings.Builder, screen int) {
	if t.flags[screen] {
		out.WriteString("\x1b[=0;1u")
	}
	if t.pushed[screen] > 0 {
		fmt.Fprintf(out, "\x1b[<%du", t.pushed[screen])
	}
}

// Alternate reports whether the program is on the alternate screen, which has no
// history.
func (t *Terminal) Alternate() bool { return t.alternate != 0 }
