// Package screen keeps what a program has on its terminal, so that somebody who
// looks at it later sees it as if he had been there.
//
// Input is the program's output, in any pieces, and the terminal's size; outputs
// are the same bytes cut at the ends of characters and control sequences, and
// sequences that draw the screen on another terminal. Everything is in memory and
// bounded: the screen's size, what waits to be drawn, titles, links. The emulation
// is slow (a scrolled line costs a millisecond in an emulated guest), so output
// waits until somebody wants to see it or it gets too much, and long text that
// would have scrolled away is left out.
package screen

import (
	"bytes"
	"io"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/ansi/parser"
	"github.com/charmbracelet/x/vt"

	"github.com/smolvm/smolvm/internal/wire"
)

// Bounds.
const (
	MaxColumns = 500
	MaxRows    = 200
	// maxPending is how much output may wait to be drawn.
	maxPending = 64 << 10
	// maxPartial is how long a control sequence may be before it is passed on in
	// pieces: pictures are sent as such.
	maxPartial = 64 << 10
	maxLink    = 2 << 10
	maxTitle   = 200
	// maxAltLines is how many lines may scroll off the alternate screen, which the
	// emulator would keep for ever, before they are dropped.
	maxAltLines = 500
)

// Screen is a program's terminal. It is not safe for concurrent use.
type Screen struct {
	size  wire.Size
	reply func([]byte)

	scan   *ansi.Parser // finds the ends of sequences, nothing else
	output []byte       // not drawn yet; from done on an incomplete sequence
	tamed  []byte       // the same for the emulator
	done   int
	plain  int  // from here on output is text that only moves down
	torn   bool // done is in the middle of a long sequence

	emulator *vt.Emulator
	track    tracked
	replies  chan struct{} // closed when the emulator's replies have ended
}

// New makes an empty screen. What the program asks its terminal is answered by
// calls of reply, during calls of the screen's methods; reply must not call it
// back, and not wait.
func New(size wire.Size, reply func([]byte)) *Screen {
	s := &Screen{size: Clamp(size), reply: reply, scan: ansi.NewParser()}
	s.scan.SetDataSize(16) // of strings only the end matters
	s.begin()
	return s
}

// Clamp makes a size one that a screen can have.
func Clamp(size wire.Size) wire.Size {
	if size.Columns == 0 || size.Rows == 0 {
		return wire.Size{Columns: 80, Rows: 24}
	}
	return wire.Size{Columns: min(size.Columns, MaxColumns), Rows: min(size.Rows, MaxRows)}
}

// begin makes the emulator, at first and when it failed.
func (s *Screen) begin() {
	s.emulator = vt.NewEmulator(int(s.size.Columns), int(s.size.Rows))
	s.emulator.SetScrollbackSize(1) // none is not offered
	s.track = tracked{modes: map[int]bool{}}
	s.follow()
	emulator, ended := s.emulator, make(chan struct{})
	s.replies = ended
	go func() { // ends with the pipe that end closes
		defer close(ended)
		buf := make([]byte, 1024)
		for {
			n, err := emulator.Read(buf)
			if n > 0 {
				s.reply(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
}

// Close ends the screen, which must not be used afterwards.
func (s *Screen) Close() {
	// The emulator's own Close races with its Read.
	if pipe, ok := s.emulator.InputPipe().(*io.PipeWriter); ok {
		_ = pipe.Close()
		<-s.replies
	}
}

// Write takes output and gives what of it (and of what was held back before) can
// be shown now: whole characters and sequences. The result is valid until the
// next call of a method.
func (s *Screen) Write(p []byte) []byte {
	if len(s.output) >= maxPending {
		s.Draw()
	}
	from := s.done
	s.look(p)
	if len(s.output)-s.done > maxPartial {
		s.done, s.plain, s.torn = len(s.output), len(s.output), true
	}
	return s.output[from:s.done]
}

// look appends p and finds out how far it is complete and plain.
func (s *Screen) look(p []byte) {
	at := len(s.output)
	s.output, s.tamed = append(s.output, p...), append(s.tamed, p...)
	for i, b := range p {
		before := s.scan.State()
		if before == parser.GroundState && flows(b) {
			s.done = at + i + 1
			continue
		}
		b = tame(before, b)
		s.tamed[at+i] = b
		action := s.scan.Advance(b)
		if (action == parser.DispatchAction || action == parser.ExecuteAction) && !s.harmless(before, b) {
			s.plain = at + i + 1
		}
		if s.scan.State() == parser.GroundState {
			s.done, s.torn = at+i+1, false
		}
	}
}

// flows tells whether a byte is text in any encoding, or moves on in it.
func flows(b byte) bool {
	return b >= ' ' && b <= '~' || b == '\n' || b == '\r' || b == '\t'
}

// harmless tells whether what has just ended changes at most the line it is in,
// and the look of what follows.
func (s *Screen) harmless(before parser.State, b byte) bool {
	switch before {
	case parser.CsiEntryState, parser.CsiParamState:
		return s.scan.Command() == 'm' || s.scan.Command() == 'K'
	}
	return before == parser.GroundState && (b == '\b' || b == '\a')
}

// Waiting reports whether some output is not drawn yet.
func (s *Screen) Waiting() bool { return s.done > 0 }

// Draw brings the screen up to date.
func (s *Screen) Draw() {
	if s.done == 0 {
		return
	}
	plain := min(s.plain, s.done)
	s.feed(s.tamed[:plain])
	rest := s.tamed[plain:s.done]
	if cut := s.scrolledAway(rest); cut > 0 {
		s.feed(styles(rest[:cut]))
		rest = rest[cut:]
	}
	s.feed(rest)
	s.output, s.tamed = append(s.output[:0], s.output[s.done:]...), append(s.tamed[:0], s.tamed[s.done:]...)
	s.done, s.plain = 0, 0
	if s.track.altLines > maxAltLines {
		s.forgetAlt()
	}
}

// scrolledAway is how much of plain text need not be drawn: after twice as many
// lines as the screen has, wherever the cursor was, nothing is left of it.
func (s *Screen) scrolledAway(text []byte) int {
	if s.emulator.IsAltScreen() || s.track.margins != [2]int{} {
		return 0
	}
	cut := len(text)
	for range 2*int(s.size.Rows) + 1 {
		if cut = bytes.LastIndexByte(text[:cut], '\n'); cut < 0 {
			return 0
		}
	}
	if cut == 0 || text[cut-1] != '\r' {
		return 0
	}
	return cut + 1
}

// styles keeps of plain text what changes the look of what follows.
func styles(text []byte) []byte {
	var kept []byte
	for i := 0; i < len(text); i++ {
		if text[i] != ansi.ESC {
			continue
		}
		end := i + 1
		for end < len(text) && (text[end] < 'A' || text[end] == '[') {
			end++
		}
		if end < len(text) && text[end] == 'm' {
			kept = append(kept, text[i:end+1]...)
		}
		i = end
	}
	return kept
}

// feed lets the emulator draw. Should it fail on some sequence, the screen begins
// anew: nothing a program prints may end the agent.
func (s *Screen) feed(p []byte) {
	defer func() {
		if recover() != nil {
			s.Close()
			s.begin()
		}
	}()
	if s.emulator.IsAltScreen() {
		s.track.altLines += bytes.Count(p, []byte("\n"))
	}
	_, _ = s.emulator.Write(p)
}

// forgetAlt drops the lines that have scrolled off the alternate screen. The only
// way is to erase the screen with them, and to put its cells back.
func (s *Screen) forgetAlt() {
	if !s.emulator.IsAltScreen() || s.torn {
		return
	}
	lines := s.cells()
	s.feed([]byte("\x1b[3J"))
	for y, line := range lines {
		for x := range line {
			if !line[x].IsZero() {
				s.emulator.SetCell(x, y, &line[x])
			}
		}
	}
	s.track.altLines = 0
}

// cells are those of the active screen.
func (s *Screen) cells() []uv.Line {
	lines := make([]uv.Line, s.emulator.Height())
	for y := range lines {
		lines[y] = make(uv.Line, s.emulator.Width())
		for x := range lines[y] {
			if cell := s.emulator.CellAt(x, y); cell != nil {
				lines[y][x] = *cell
			}
		}
	}
	return lines
}

// Resize changes the screen's size. Where it gets lower, what is above the cursor
// goes first, as on a real terminal.
func (s *Screen) Resize(size wire.Size) {
	s.Draw()
	size = Clamp(size)
	if lost := s.emulator.CursorPosition().Y - int(size.Rows) + 1; lost > 0 && !s.emulator.IsAltScreen() {
		s.feed([]byte(ansi.ScrollUp(lost) + ansi.CursorUp(lost)))
	}
	s.size = size
	s.track.margins = [2]int{}
	s.emulator.Resize(int(size.Columns), int(size.Rows))
}

// Size is the screen's size.
func (s *Screen) Size() wire.Size { return s.size }

// Title is what the program called its window, as far as that is drawn.
func (s *Screen) Title() string { return s.track.title }
