package ui

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escape opens a terminal's control sequences.
const escape = '\x1b'

// Clean makes text from outside (a guest, a server, a file) safe for one line
// of a terminal: control sequences, control characters and invisible formatting
// characters go, line breaks and tabs become spaces, broken UTF-8 is marked.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, CleanLines(text))
}

// CleanLines is Clean for text of several lines: line breaks and tabs stay.
func CleanLines(text string) string {
	if plain(text) {
		return text
	}
	var out strings.Builder
	for len(text) > 0 {
		r, width := utf8.DecodeRuneInString(text)
		switch {
		case r == escape:
			width = sequence(text)
		case r == '\n' || r == '\t':
			out.WriteRune(r)
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
		default:
			out.WriteRune(r) // utf8.RuneError for a broken byte
		}
		text = text[width:]
	}
	return out.String()
}

// plain reports whether text is printable ASCII, which most text is.
func plain(text string) bool {
	for i := range len(text) {
		if (text[i] < ' ' && text[i] != '\n' && text[i] != '\t') || text[i] > '~' {
			return false
		}
	}
	return true
}

// sequence is the length of the control sequence that text begins with
// (ECMA-48): CSI up to its final byte, a string up to its terminator or the
// line's end, anything else two bytes.
func sequence(text string) int {
	if len(text) < 2 {
		return len(text)
	}
	switch text[1] {
	case '[':
		for i := 2; i < len(text); i++ {
			if text[i] >= 0x40 && text[i] <= 0x7e {
				return i + 1
			}
			if text[i] < 0x20 || text[i] > 0x7e {
				return i // not a sequence after all: the rest is text
			}
		}
		return len(text)
	case ']', 'P', 'X', '^', '_':
		end := strings.IndexAny(text[2:], "\a\x1b\n")
		if end < 0 {
			return len(text)
		}
		if text[2+end] == '\a' {
			end++
		}
		return 2 + end
	}
	if text[1] >= 0x20 && text[1] <= 0x7e {
		return 2
	}
	return 1
}

// open reports whether text, which begins with escape, may go on being one
// control sequence.
func open(text string) bool {
	if len(text) < 2 {
		return true
	}
	switch text[1] {
	case '[':
		return !strings.ContainsFunc(text[2:], func(r rune) bool { return r < 0x20 || r >= 0x40 })
	case ']', 'P', 'X', '^', '_':
		return !strings.ContainsAny(text[2:], "\a\x1b\n")
	}
	return false
}

// maxHeld bounds what a CleanWriter holds back.
const maxHeld = 4096

// CleanWriter is CleanLines for a stream. It holds back what may be the
// beginning of a control sequence or of a character.
type CleanWriter struct {
	out  io.Writer
	held []byte
}

// NewCleanWriter makes a CleanWriter that writes to out.
func NewCleanWriter(out io.Writer) *CleanWriter { return &CleanWriter{out: out} }

// Write passes b on without what a terminal would obey.
func (w *CleanWriter) Write(b []byte) (int, error) {
	w.held = append(w.held, b...)
	end := w.complete()
	if len(w.held)-end > maxHeld {
		end = len(w.held)
	}
	if _, err := io.WriteString(w.out, CleanLines(string(w.held[:end]))); err != nil {
		return 0, err
	}
	w.held = append(w.held[:0], w.held[end:]...)
	return len(b), nil
}

// complete is how much of what is held cannot be changed by what follows.
func (w *CleanWriter) complete() int {
	if at := bytes.LastIndexByte(w.held, escape); at >= 0 && open(string(w.held[at:])) {
		return at
	}
	for i := 1; i <= min(len(w.held), utf8.UTFMax); i++ {
		if at := len(w.held) - i; utf8.RuneStart(w.held[at]) {
			if !utf8.FullRune(w.held[at:]) {
				return at
			}
			break
		}
	}
	return len(w.held)
}
