package supervise

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func newConsole(t *testing.T) (*console, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "console.log")
	c, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c, path
}

// TestConsoleIsCapped writes far more than is kept, in pieces of many sizes.
func TestConsoleIsCapped(t *testing.T) {
	for _, piece := range []int{1, 100, 4096, 1 << 20, 5 << 20} {
		c, path := newConsole(t)
		var all bytes.Buffer
		for i := 0; all.Len() < 7<<20; i++ {
			fmt.Fprintf(&all, "line %d of a guest that talks too much\n", i)
		}
		step := piece
		if piece == 1 { // one byte at a time only around the bound
			_, _ = c.Write(all.Next(consoleMax - 10))
		}
		rest := all.Bytes()
		if piece == 1 {
			rest = rest[:100]
		}
		for at := 0; at < len(rest); at += step {
			if n, err := c.Write(rest[at:min(at+step, len(rest))]); n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || len(got) > consoleMax || len(got) < consoleKeep-100 || int64(len(got)) != c.size {
			t.Errorf("pieces of %d: %d bytes kept (%d), %v", piece, len(got), c.size, err)
		}
		if !bytes.HasSuffix(rest, got[len(got)-50:]) {
			t.Errorf("pieces of %d: the end is %q", piece, got[len(got)-50:])
		}
		if !bytes.HasPrefix(got, []byte("line ")) {
			t.Errorf("pieces of %d: the log starts in the middle of a line: %.30q", piece, got)
		}
	}
}

func TestConsoleWithoutLines(t *testing.T) {
	c, path := newConsole(t)
	_, _ = c.Write(bytes.Repeat([]byte{0xff}, 3*consoleMax))
	if info, err := os.Stat(path); err != nil || info.Size() > consoleMax {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if tail := c.tail(5); len(tail) > 5 || len(strings.Join(tail, "")) > 5*(maxLine+3) {
		t.Errorf("a tail of %d lines", len(tail))
	}
}

func TestConsoleTail(t *testing.T) {
	c, path := newConsole(t)
	if tail := c.tail(3); tail != nil {
		t.Errorf("an empty console has a tail: %q", tail)
	}
	fmt.Fprintf(c, "zero\none\r\n\n  \x1b[1;31mtwo\x1b[0m\n\x1b]0;title\athr\x00ee\x7f\nlast\xff")
	if d := cmp.Diff([]string{"one", "  two", "three", "last?"}, c.tail(4)); d != "" {
		t.Error(d)
	}
	c.close()
	if n, err := c.Write([]byte("after")); n != 5 || err != nil {
		t.Errorf("a console that cannot be written stops the guest: %d, %v", n, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if _, err := openConsole(path); err == nil {
		t.Error("a planted link was followed")
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"text\twith\nlines":           "text\twith\nlines",
		"\x1b[2J\x1b[1;1Hclear":       "clear",
		"\x1b]52;c;ZXZpbA==\x1b\\end": "end",
		"\x1b]never ends\nnext":       "\nnext",
		"\x1bPdevice\x1b\\x":          "x",
		"\x1b":                        "",
		"a\x1b[":                      "a",
		"\x1b[\nx":                    "\nx",
		"\x1b\nx":                     "\nx",
		"\u202eevil\u200b":            "evil",
		"\u009b31mred":                "31mred", // the one-byte form of CSI goes, its rest is harmless
		"\xff\xfe":                    "??",
		"grün ☂":                      "grün ☂",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\n")
	f.Add("\x1b]0;t\a\x1b(B\x9b1m")
	f.Fuzz(func(t *testing.T, in string) {
		got := plain(in)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0
		}) {
			t.Errorf("plain(%q) = %q", in, got)
		}
		if len(got) > len(in) {
			t.Errorf("plain made %d bytes of %d", len(got), len(in))
		}
		if again := plain(got); again != got {
			t.Errorf("plain(%q) = %q, then %q", in, got, again)
		}
	})
}

func TestLimitedLog(t *testing.T) {
	var out bytes.Buffer
	l := &limited{out: &out, left: 25}
	for range 10 {
		if n, err := fmt.Fprintf(l, "0123456789"); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := out.String(); got != "01234567890123456789the log is full\n" {
		t.Errorf("%q", got)
	}
}

// TestNetworkLogGoesOn keeps the lines of earlier runs, shortens itself, and follows
// no link.
func TestNetworkLogGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "network.log")
	for _, line := range []string{"one\n", "two\n"} {
		log, err := openNetworkLog(path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = log.Write([]byte(line))
		log.close()
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("got %q, %v", got, err)
	}
	log, err := openNetworkLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	line := []byte(strings.Repeat("x", 999) + "\n")
	for range 2*consoleMax/len(line) + 1 {
		_, _ = log.Write(line)
	}
	got, err := os.ReadFile(path)
	if err != nil || len(got) > consoleMax || len(got) < consoleKeep/2 || len(got)%len(line) != 0 {
		t.Errorf("%d bytes are kept, %v", len(got), err)
	}
	if err := os.Symlink(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	if _, err := openNetworkLog(path + ".link"); err == nil {
		t.Error("a link is followed")
	}
}
