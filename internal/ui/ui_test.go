package ui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

// buffers are streams of a test that is not on a terminal.
func buffers(input string) (s *Streams, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	return &Streams{In: strings.NewReader(input), Out: out, Err: errs}, out, errs
}

func TestClean(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain text ~", "plain text ~"},
		{"two\nlines\tand a tab", "two lines and a tab"},
		{"a\x1b[31mred\x1b[0m", "ared"},
		{"\x1b]0;title\arest", "rest"},
		{"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"},
		{"\x1bP1;2|data\x1b\\after", "after"},
		{"\x1b]0;never ends\nnext", " next"},
		{"\x1b", ""},
		{"\x1b[", ""},
		{"\x1b[12", ""},
		{"\x1b[1\x012m", "2m"},
		{"\x1bcreset", "reset"},
		{"bell\a back\b cr\r nul\x00 del\x7f", "bell back cr nul del"},
		{"c1 \u009b31m csi", "c1 31m csi"},
		{"bidi \u202eevil\u202c", "bidi evil"},
		{"zero\u200bwidth", "zerowidth"},
		{"broken \xff byte", "broken \ufffd byte"},
		{"grüße 世界", "grüße 世界"},
		{"\x1b\x1b[2Jx", "x"},
	} {
		if got := Clean(c.in); got != c.want {
			t.Errorf("Clean(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	if got := CleanLines("a\nb\x1b[K\tc"); got != "a\nb\tc" {
		t.Errorf("CleanLines kept %q", got)
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"x", "\x1b[31m", "\x1b]0;t\a", "\x1b", "\u009b", "\xff\x1b["} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		clean := Clean(text)
		for _, r := range clean {
			if r < ' ' || (r >= 0x7f && r < 0xa0) {
				t.Fatalf("Clean(%q) kept the control character %q", text, r)
			}
		}
		if again := Clean(clean); again != clean {
			t.Fatalf("Clean(%q) = %q, cleaned again %q", text, clean, again)
		}
	})
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB",
		1 << 30: "1.0 GiB", 5 << 40: "5.0 TiB", 1<<63 - 1: "8.0 EiB", -1: "-1 B",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 420 * time.Millisecond: "0.4 s", 99900 * time.Millisecond: "99.9 s",
		100 * time.Second: "1 min 40 s", time.Hour + 90*time.Second: "1 h 1 min",
	} {
		if got := Elapsed(d); got != want {
			t.Errorf("Elapsed(%v) = %q, want %q", d, got, want)
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 s", 59 * time.Second: "59 s", time.Minute: "1 minute",
		119 * time.Minute: "1 hour", 49 * time.Hour: "2 days",
	} {
		if got := Age(now, now.Add(-d)); got != want {
			t.Errorf("Age of %v = %q, want %q", d, got, want)
		}
	}
	if got := Age(now, time.Time{}); got != "-" {
		t.Errorf("Age of no time = %q", got)
	}
}

func TestTableAlignsAndCleans(t *testing.T) {
	table := NewTable("NAME", "STATE", "HOST")
	table.Add("a", "running", "\x1b[2Jevil\nrow")
	table.Add("größer", "", "x")
	var out bytes.Buffer
	if err := table.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"NAME    STATE    HOST\n" +
		"a       running  evil row\n" +
		"größer  -        x\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestEnvelope(t *testing.T) {
	var out bytes.Buffer
	if err := WriteData(&out, map[string]string{"name": "a<b>"}); err != nil {
		t.Fatal(err)
	}
	want := `{
  "schema": 1,
  "ok": true,
  "data": {
    "name": "a<b>"
  },
  "error": null
}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	err := fmt.Errorf("pull base: %w", fault.New(fault.Trust, "fetch it again", "digest of \x1b[31mbase differs"))
	if err := WriteFailure(&out, err, nil); err != nil {
		t.Fatal(err)
	}
	want = `{
  "schema": 1,
  "ok": false,
  "data": null,
  "error": {
    "code": "trust",
    "message": "pull base: digest of base differs",
    "hint": "fetch it again"
  }
}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestFail(t *testing.T) {
	s, _, errs := buffers("")
	s.Fail(fault.New(fault.Host, "install it", "no QEMU\x1b[2J\nsecond line"))
	s.Fail(errors.New("no hint"))
	want := "smolvm: no QEMU\nsecond line\n  hint: install it\nsmolvm: no hint\n"
	if diff := cmp.Diff(want, errs.String()); diff != "" {
		t.Error(diff)
	}
	s.Color = true
	errs.Reset()
	s.Fail(errors.New("red"))
	if want := "\x1b[31msmolvm:\x1b[0m red\n"; errs.String() != want {
		t.Errorf("got %q, want %q", errs, want)
	}
}

func TestConfirm(t *testing.T) {
	for input, want := range map[string]bool{
		"y\n": true, "YES\n": true, " y \n": true,
		"\n": false, "n\n": false, "yy\n": false, "": false, "y": false,
		"yy\ny\n": true, "^C\nno\ny\n": false, "a\nb\nc\ny\n": false,
	} {
		s, _, errs := buffers(input)
		if got, err := s.Confirm(t.Context(), "delete all?"); got != want || err != nil {
			t.Errorf("answer %q counted as %v, %v", input, got, err)
		}
		if !strings.HasPrefix(errs.String(), "delete all? [y/N] ") {
			t.Errorf("asked %q", errs)
		}
	}
}

// TestConfirmEnds: whoever interrupts a question need not answer it.
func TestConfirmEnds(t *testing.T) {
	s, _, _ := buffers("")
	in, typed := io.Pipe()
	defer typed.Close()
	s.In = in
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if yes, err := s.Confirm(ctx, "delete all?"); yes || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", yes, err)
	}
}

// However the bytes arrive, what reaches the terminal is the same and clean.
func TestCleanWriter(t *testing.T) {
	text := "boot \x1b[1;31mred\x1b[0m\nprompt> \xc3\xa9t\xc3\xa9 \x1b]0;title\a$ " + strings.Repeat("x", maxHeld) + "\n"
	want := "boot red\nprompt> été $ " + strings.Repeat("x", maxHeld) + "\n"
	for size := 1; size <= 16; size++ {
		var out bytes.Buffer
		w := NewCleanWriter(&out)
		for rest := text; rest != ""; rest = rest[min(size, len(rest)):] {
			if n, err := w.Write([]byte(rest[:min(size, len(rest))])); err != nil || n != min(size, len(rest)) {
				t.Fatalf("wrote %d: %v", n, err)
			}
		}
		if out.String() != want {
			t.Errorf("in pieces of %d bytes: %.60q", size, &out)
		}
	}
	// A prompt without a line's end is seen at once.
	var out bytes.Buffer
	w := NewCleanWriter(&out)
	if _, err := w.Write([]byte("\x1b[1mlogin: ")); err != nil || out.String() != "login: " {
		t.Errorf("got %q, %v", &out, err)
	}
	// What never ends is not held for ever.
	if _, err := w.Write([]byte("\x1b]0;" + strings.Repeat("y", 2*maxHeld))); err != nil || len(w.held) > maxHeld {
		t.Errorf("holds %d bytes, %v", len(w.held), err)
	}
}

// A result that cannot be written is the disk's fault, not the program's.
func TestFullOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full")
	}
	defer full.Close()
	if err := WriteData(full, "x"); fault.CodeOf(err) != fault.Storage {
		t.Errorf("it is a fault of %s: %v", fault.CodeOf(err), err)
	}
}

func TestTableFits(t *testing.T) {
	make := func() *Table {
		table := NewTable("NAME", "AGE", "DIRECTORY")
		table.Add("one", "3 hours", "/home/u/src/project")
		return table
	}
	for _, c := range []struct {
		columns int
		want    string
		gone    int
	}{
		{80, "NAME  AGE      DIRECTORY\none   3 hours  /home/u/src/project\n", 0},
		{30, "NAME  AGE      DIRECTORY\none   3 hours  .../src/project\n", 0},
		{20, "NAME  DIRECTORY\none   ...src/project\n", 1},
		{6, "NAME\none\n", 2},
	} {
		table, out := make(), strings.Builder{}
		gone := table.Fit(c.columns, "AGE", "DIRECTORY")
		if err := table.Write(&out); err != nil || out.String() != c.want || len(gone) != c.gone {
			t.Errorf("%d columns: %q, without %q; want %q", c.columns, out.String(), gone, c.want)
		}
	}
	var out strings.Builder
	table := make()
	table.Add("two", "", "/x")
	want := "name: one\nage: 3 hours\ndirectory: /home/u/src/project\n\nname: two\nage: -\ndirectory: /x\n"
	if err := table.WritePlain(&out); err != nil || out.String() != want {
		t.Errorf("plain: %q, %v", out.String(), err)
	}
}
