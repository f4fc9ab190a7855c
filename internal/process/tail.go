package process

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// tailBytes bounds what a Tail keeps: enough for the last dozen lines of QEMU's
// or mmdebstrap's messages, little enough for an error text.
const tailBytes = 2048

// Tail is a writer that keeps the last bytes written to it, for error texts,
// and passes everything on. It may be used from several goroutines.
type Tail struct {
	mu   sync.Mutex
	kept []byte
	next io.Writer
}

// NewTail makes a Tail that passes everything on to next, which may be nil.
func NewTail(next io.Writer) *Tail { return &Tail{next: next} }

// Write keeps the end of p and passes p on.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[max(0, len(p)-tailBytes):]...)
	if extra := len(t.kept) - tailBytes; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	if t.next == nil {
		return len(p), nil
	}
	return t.next.Write(p)
}

// String gives the kept lines without the first one where that was cut, with
// every control character replaced, so that it can be shown on a terminal.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := t.kept
	if len(text) == tailBytes {
		if _, rest, ok := bytes.Cut(text, []byte("\n")); ok {
			text = rest
		}
	}
	return strings.TrimSpace(strings.Map(printable, strings.ToValidUTF8(string(text), "?")))
}

func printable(r rune) rune {
	switch {
	case r == '\n' || r == '\t':
		return r
	case r == '\r':
		return -1
	case r < ' ' || r >= 0x7f && r < 0xa0:
		return '?'
	}
	return r
}
