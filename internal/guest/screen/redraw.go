package screen

import (
	"fmt"
	"strings"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
)

// View is what a terminal elsewhere shows of a screen.
type View struct {
	lines        []string
	modes, title string
	alt          bool
}

// Redraw gives what makes another terminal, at least as large, show the screen and
// behave as the program has set it. A terminal that shows it for the first time
// keeps the fresh lines that it showed before in its history; with none, it is freed
// of all that an earlier view left.
func (s *Screen) Redraw(fresh int) ([]byte, View) {
	s.Draw()
	var out strings.Builder
	if fresh > 0 {
		out.WriteString("\x1b[9999;1H" + strings.Repeat("\n", fresh))
	} else {
		out.WriteString("\x1b[?1049l")
	}
	out.WriteString("\x1b[0m\x1b(B\x0f\x1b[?25l\x1b[?7l\x1b[?6l\x1b[r\x1b[H\x1b[2J")
	t, lines := &s.track, render(s.cells())
	if s.emulator.IsAltScreen() {
		place(&out, t.main[:min(len(t.main), int(s.size.Rows))])
		if flags := top(t.keys[0]); flags != 0 || fresh == 0 {
			out.WriteString(keyFlags(flags))
		}
		out.WriteString(ansi.CursorPosition(t.mainCursor.X+1, t.mainCursor.Y+1) + "\x1b[?1049h\x1b[H\x1b[2J")
	}
	place(&out, lines)
	out.WriteString(s.modes(fresh > 0) + s.title() + s.margins())
	s.cursor(&out)
	return []byte(out.String()), View{lines: lines, modes: s.modes(false), title: s.title(), alt: s.emulator.IsAltScreen()}
}

// Last gives what the screen shows as lines of text, for when the program has ended.
func (s *Screen) Last() []byte {
	s.Draw()
	lines := render(s.cells())
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return []byte("\x1b[0m" + strings.Join(append(lines, ""), "\r\n"))
}

// Changes gives what brings a terminal from an earlier view to what the screen is
// now.
func (s *Screen) Changes(from View) ([]byte, View) {
	s.Draw()
	now := View{lines: render(s.cells()), modes: s.modes(false), title: s.title(), alt: s.emulator.IsAltScreen()}
	if now.modes != from.modes || now.alt != from.alt || len(now.lines) != len(from.lines) {
		return s.Redraw(0)
	}
	var out strings.Builder
	out.WriteString("\x1b[0m\x1b(B\x1b[?25l\x1b[?7l\x1b[?6l\x1b[r")
	for y, line := range now.lines {
		if line != from.lines[y] {
			placeLine(&out, y, line)
		}
	}
	if now.title != from.title {
		out.WriteString(now.title)
	}
	out.WriteString(s.margins())
	s.cursor(&out)
	return []byte(out.String()), now
}

// render gives lines with their looks, each independent of the others.
func render(cells []uv.Line) []string {
	lines := make([]string, len(cells))
	for y := range cells {
		lines[y] = cells[y].Render()
	}
	return lines
}

func place(out *strings.Builder, lines []string) {
	for y, line := range lines {
		if line != "" {
			placeLine(out, y, line)
		}
	}
}

func placeLine(out *strings.Builder, y int, line string) {
	fmt.Fprintf(out, "\x1b[%d;1H\x1b[K%s", y+1, line) // after a whole line it would erase its end
}

// modes sets what the program has set, and where the terminal is not fresh undoes
// the rest.
func (s *Screen) modes(fresh bool) string {
	var out strings.Builder
	t := &s.track
	for _, mode := range passive {
		if t.modes[mode] {
			fmt.Fprintf(&out, "\x1b[?%dh", mode)
		} else if !fresh {
			fmt.Fprintf(&out, "\x1b[?%dl", mode)
		}
	}
	alternate := 0
	if s.emulator.IsAltScreen() {
		alternate = 1
	}
	if flags := top(t.keys[alternate]); flags != 0 || !fresh {
		out.WriteString(keyFlags(flags))
	}
	if t.otherKeys != 0 || !fresh {
		fmt.Fprintf(&out, "\x1b[>4;%dm", t.otherKeys)
	}
	if t.modes[modeKeypad] {
		out.WriteString("\x1b=")
	} else if !fresh {
		out.WriteString("\x1b>")
	}
	return out.String()
}

func (s *Screen) title() string {
	if s.track.title == "" {
		return ""
	}
	return "\x1b]2;" + s.track.title + "\a"
}

// keyFlags sets flags rather than pushing them: it may be said twice.
func keyFlags(flags int) string { return fmt.Sprintf("\x1b[=%d;1u", flags) }

func (s *Screen) margins() string {
	if s.track.margins == [2]int{} {
		return ""
	}
	return ansi.SetTopBottomMargins(s.track.margins[0], s.track.margins[1])
}

// cursor puts the cursor where it is and makes it look and write as it does.
func (s *Screen) cursor(out *strings.Builder) {
	t, at := &s.track, s.emulator.CursorPosition()
	out.WriteString(ansi.CursorPosition(at.X+1, at.Y+1))
	if on, said := t.modes[modeWrap]; on || !said {
		out.WriteString("\x1b[?7h")
	}
	if t.modes[modeOrigin] {
		// Setting it moves the cursor, and from then on lines count from the margin.
		fmt.Fprintf(out, "\x1b[?6h\x1b[%d;%dH", at.Y+1-max(0, t.margins[0]-1), at.X+1)
	}
	if style, blink := s.emulator.CursorStyle(); style != 0 || !blink {
		n := int(style)*2 + 1
		if !blink {
			n++
		}
		out.WriteString(ansi.SetCursorStyle(n))
	}
	if t.graphics {
		out.WriteString("\x1b(0")
	}
	out.WriteString(t.pen.String())
	if on, said := t.modes[modeCursor]; on || !said {
		out.WriteString("\x1b[?25h")
	}
}
