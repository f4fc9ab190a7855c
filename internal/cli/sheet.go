package cli

import (
	"fmt"
	"strings"

	"github.com/smolvm/smolvm/internal/ui"
)

// sheet is a text of facts for people: a line for each, names and values in columns,
// or for screen readers with a colon between them.
type sheet struct {
	strings.Builder
	plain bool
	width int // of the names
}

// sheet begins one; most names have up to nine letters.
func (a *App) sheet() *sheet { return &sheet{plain: a.global.Plain, width: 9} }

// fact adds a line where there is a value.
func (s *sheet) fact(name, value string) { s.facts("", [2]string{name, value}) }

// facts adds a line for each that has a value, behind an indent.
func (s *sheet) facts(indent string, lines ...[2]string) {
	for _, line := range lines {
		name, value := line[0], ui.Clean(line[1])
		switch {
		case value == "":
		case s.plain:
			fmt.Fprintf(s, "%s%s: %s\n", indent, name, value)
		default:
			fmt.Fprintf(s, "%s%-*s %s\n", indent, s.width, name, value)
		}
	}
}
