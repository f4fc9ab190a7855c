package screen

import "github.com/charmbracelet/x/ansi/parser"

// The emulator takes the bytes 0x80 to 0x9F for controls (C1 of ECMA-48) wherever
// they stand, in the middle of a character of a title as well: the string ends there
// and its rest is drawn. Terminals for UTF-8 know such bytes as parts of characters
// only, and that is what programs write for.
const (
	stringEnd = 0x9c
	lastC1    = 0x9f
	// standIn takes the place of stringEnd: UTF-8 has no such byte.
	standIn = 0xff
)

// tame gives the byte that the emulator shall see instead of one that comes in a
// state of its parser.
func tame(state parser.State, b byte) byte {
	switch {
	case b < 0x80 || state == parser.Utf8State:
		return b
	case state == parser.OscStringState: // titles and links are read: see restore
		if b == stringEnd {
			return standIn
		}
		return b
	case state >= parser.SosStringState && state <= parser.ApcStringState, state == parser.DcsStringState:
		return '?' // nobody reads it
	case b <= lastC1:
		return '?' // as wide as the mark that terminals have for what is no UTF-8
	}
	return b
}

// restore undoes tame in a string.
func restore(data []byte) []byte {
	for i, b := range data {
		if b == standIn {
			data[i] = stringEnd
		}
	}
	return data
}
