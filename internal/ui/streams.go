// Package ui is what the user sees: streams and what is known about them,
// progress, tables, errors, sizes and ages, and the terminal's raw mode.
//
// Inputs are values of the program (events, faults, rows) and bytes that may
// come from a hostile guest or server: those never reach a terminal with their
// control characters. Outputs are bytes on three streams. Nothing is kept on
// disk; the terminal's mode is restored by whoever changed it.
package ui

import (
	"io"
	"os"

	"golang.org/x/term"

	"github.com/smolvm/smolvm/internal/wire"
)

// defaultWidth is used where the terminal does not tell its width.
const defaultWidth = 80

// Streams are the program's three streams and what they are connected to.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	InTTY, OutTTY, ErrTTY bool

	Color bool   // colour escapes may be written to Err
	Moves bool   // the cursor on Err may be moved: progress is redrawn in place
	Term  string // the terminal's type, TERM

	terminal *os.File // In, when it is a terminal
	screen   *os.File // Err or Out, whichever is a terminal: its size is asked
}

// NewStreams looks at the three files. It honours NO_COLOR and TERM=dumb.
func NewStreams(in, out, errs *os.File, getenv func(string) string) *Streams {
	s := &Streams{In: in, Out: out, Err: errs, Term: getenv("TERM")}
	s.InTTY, s.OutTTY, s.ErrTTY = isTerminal(in), isTerminal(out), isTerminal(errs)
	s.Moves = s.ErrTTY && s.Term != "dumb" && s.Term != ""
	s.Color = s.Moves && getenv("NO_COLOR") == ""
	if s.InTTY {
		s.terminal = in
	}
	for _, file := range []*os.File{out, errs} {
		if isTerminal(file) {
			s.screen = file
		}
	}
	return s
}

func isTerminal(file *os.File) bool { return term.IsTerminal(int(file.Fd())) }

// Interactive reports whether a person sits at both ends: input comes from a
// terminal and output goes to one.
func (s *Streams) Interactive() bool { return s.InTTY && s.OutTTY }

// Size is the terminal's size now, and 80 by 24 where there is none.
func (s *Streams) Size() wire.Size {
	if s.screen != nil {
		if columns, rows, err := term.GetSize(int(s.screen.Fd())); err == nil && columns > 0 {
			return wire.Size{Columns: uint16(columns), Rows: uint16(rows)}
		}
	}
	return wire.Size{Columns: defaultWidth, Rows: 24}
}

// Raw puts the input terminal into raw mode: every key goes to the program that
// is attached. The returned function restores the terminal; it must be called,
// and may be called twice. Without a terminal both do nothing.
func (s *Streams) Raw() (restore func(), err error) {
	if s.terminal == nil {
		return func() {}, nil
	}
	fd := int(s.terminal.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, before) }, nil
}
