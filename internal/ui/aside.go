package ui

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// asideDeaf is how long keys are dropped after a question has appeared: they
	// were meant for the program.
	asideDeaf = time.Second
	// asidePatience is how long a question waits; no key is no.
	asidePatience = time.Minute
)

// Aside stands between a terminal in raw mode and the program that has it, and
// asks the user a question now and then. Meanwhile the program's output waits and
// keys are the question's.
type Aside struct {
	in   io.Reader
	out  io.Writer
	now  func() time.Time
	size func() wire.Size

	asking sync.Mutex // one question at a time
	screen sync.Mutex // held by a question, or by one write of the program

	mu      sync.Mutex
	keys    chan byte // of the question; nil: there is none
	deafTil time.Time
}

// NewAside makes an Aside for a terminal.
func NewAside(in io.Reader, out io.Writer, size func() wire.Size, now func() time.Time) *Aside {
	return &Aside{in: in, out: out, size: size, now: now}
}

// Read gives the program its keys.
func (a *Aside) Read(p []byte) (int, error) {
	for {
		n, err := a.in.Read(p)
		if n == 0 || !a.divert(p[:n]) {
			return n, err
		}
		if err != nil {
			return 0, err
		}
	}
}

// SetReadDeadline ends a Read in progress where the terminal can do that.
func (a *Aside) SetReadDeadline(t time.Time) error {
	if d, ok := a.in.(interface{ SetReadDeadline(time.Time) error }); ok {
		return d.SetReadDeadline(t)
	}
	return fmt.Errorf("end a read: it cannot be interrupted")
}

// divert gives keys to the question, if there is one.
func (a *Aside) divert(keys []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keys == nil {
		return false
	}
	if a.now().Before(a.deafTil) {
		return true
	}
	for _, key := range keys {
		select {
		case a.keys <- key:
		default: // one is enough
		}
	}
	return true
}

// Write shows the program's output, after a question that is being asked.
func (a *Aside) Write(p []byte) (int, error) {
	a.screen.Lock()
	defer a.screen.Unlock()
	return a.out.Write(p)
}

// Confirm asks over the last lines of the screen and returns whether y was typed.
// The caller has the program draw its screen anew. It ends with done.
func (a *Aside) Confirm(text, question string, done <-chan struct{}) bool {
	a.asking.Lock()
	defer a.asking.Unlock()
	a.screen.Lock()
	defer a.screen.Unlock()
	keys := a.listen()
	defer a.ignore()
	erase := a.show(text, question)
	defer erase()
	late := time.NewTimer(asidePatience)
	defer late.Stop()
	for {
		select {
		case key := <-keys:
			switch key {
			case 'y', 'Y':
				return true
			case 'n', 'N', '\r', '\n', 0x03, 0x1b:
				return false
			}
		case <-late.C:
			return false
		case <-done:
			return false
		}
	}
}

// Say shows a line over the last lines of the screen, for as long as the program
// leaves it there.
func (a *Aside) Say(text string) {
	a.screen.Lock()
	defer a.screen.Unlock()
	a.show(text, "")
	_, _ = io.WriteString(a.out, "\x1b8")
}

func (a *Aside) listen() <-chan byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys, a.deafTil = make(chan byte, 1), a.now().Add(asideDeaf)
	return a.keys
}

func (a *Aside) ignore() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = nil
}

// show writes text and question over the last lines, with the cursor saved. It
// returns what erases them and puts the cursor back.
func (a *Aside) show(text, question string) (erase func()) {
	size := a.size()
	columns, rows := max(int(size.Columns), 20), max(int(size.Rows), 3)
	lines := fold(text, columns)
	if most := rows - 2; len(lines) > most {
		lines = append(lines[:most-1:most-1], "...")
	}
	if question != "" {
		lines = append(lines, question+" [y/N] ")
	}
	first := rows - len(lines) + 1
	// Scrolled up first, so that less of the program's lines is written over.
	fmt.Fprintf(a.out, "\x1b7\x1b[0m\x1b[%d;1H\x1b[J\x1b[7m%s\x1b[0m", first, strings.Join(lines, "\x1b[0m\r\n\x1b[7m"))
	return func() { fmt.Fprintf(a.out, "\x1b[%d;1H\x1b[J\x1b8", first) }
}

// fold breaks text into lines of a width. It has no control characters but line ends.
func fold(text string, width int) []string {
	var lines []string
	for line := range strings.SplitSeq(CleanLines(text), "\n") {
		runes := []rune(line)
		for len(runes) > width {
			lines = append(lines, string(runes[:width]))
			runes = runes[width:]
		}
		lines = append(lines, string(runes))
	}
	return lines
}
