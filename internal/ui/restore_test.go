package ui

import (
	"bytes"
	"testing"
)

func TestTerminalIsGivenBack(t *testing.T) {
	for output, want := range map[string]string{
		"plain text\r\n":                               "",
		"\x1b[1;31mred\x1b[0m\r\n":                     "",
		"\x1b[1;31mred":                                "\x1b[0m",
		"\x1b[?25l\x1b[?2004h\x1b[?7l":                 "\x1b[?7h\x1b[?25h\x1b[?2004l",
		"\x1b[?1002;1006h\x1b[?1006l":                  "\x1b[?1002l",
		"\x1b[?1049h\x1b[5;5Hx":                        "\x1b[?1049l",
		"\x1b[?1049hx\x1b[?1049l":                      "",
		"\x1b[>1u\x1b[>5u\x1b[<u":                      "\x1b[<1u",
		"\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[=5;1u":        "\x1b[=0;1u\x1b[<1u\x1b[?1049l\x1b[<1u",
		"\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[?1049l":       "\x1b[<1u",
		"\x1b[>4;2m\x1b=\x1b[5 q\x1b[2;9r\x1b(0":       "\x1b(B\x0f\x1b7\x1b[r\x1b8\x1b[>4m\x1b>\x1b[0 q",
		"\x1b[2;9r\x1b[r\x1b=\x1b>\x1b(B":              "",
		"\x1b[?25l\x1bc":                               "",
		"\x1b]0;[?25l title (0\x07x\x1b[?1h":           "\x1b[?1l",
		"\x1bPq\x1b[?1049h":                            "\x1b[?1049l",
		"cut off \x1b]0;tit":                           "\x18",
		"\x1b[?9999999999999999999;h\x1b[;;;?25l\x1b[": "\x18",
		"\x1b[?12h\x1b[4h\x1b[6n\x1b[c":                "",
	} {
		for _, size := range []int{1, 3, 1000} {
			var out bytes.Buffer
			terminal := NewTerminal(&out)
			for rest := []byte(output); len(rest) > 0; {
				n, err := terminal.Write(rest[:min(size, len(rest))])
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if got := terminal.Undo(); got != want || out.String() != output {
				t.Errorf("%q in pieces of %d: undone by %q, want %q; passed on %q", output, size, got, want, &out)
			}
		}
	}
}
