package unpack

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// example is the file that docs/format.md works through: a frame of zeros, a
// block of zeros, a line of text.
func example() []byte {
	return append(make([]byte, FrameSize+block), "Hello, frames!\n"...)
}

// The page shows exactly what the code writes, and what it shows can be read
// back, by this code and by the ordinary tool.
func TestFormatPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	archive, ix := compress(t, example())
	raw, err := ix.Encode()
	if err != nil {
		t.Fatal(err)
	}
	shown := fenced(string(page), "hexdump")
	if want := hexdump(archive); shown != want {
		t.Errorf("the archive on the page is\n%s\nthe code writes\n%s", shown, want)
	}
	if got := fenced(string(page), "json"); got != string(raw) {
		t.Errorf("the index on the page is\n%s\nthe code writes\n%s", got, raw)
	}
	fromPage(t, dehex(t, shown), fenced(string(page), "json"))
}

func fromPage(t *testing.T, archive []byte, index string) {
	t.Helper()
	ix, err := ParseIndex([]byte(index))
	if err != nil {
		t.Fatal(err)
	}
	out := empty(t)
	if err := Expand(t.Context(), bytes.NewReader(archive), ix, out, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, out), example()) {
		t.Error("the page's archive holds another file")
	}
	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("no zstd command here (package zstd)")
	}
	cmd := exec.CommandContext(t.Context(), tool, "-dc")
	cmd.Stdin = bytes.NewReader(archive)
	if got, err := cmd.Output(); err != nil || !bytes.Equal(got, example()) {
		t.Errorf("zstd -d of the page's archive: %d bytes, %v", len(got), err)
	}
}

// fenced is the first block of that kind on a page.
func fenced(page, kind string) string {
	_, rest, _ := strings.Cut(page, "\n```"+kind+"\n")
	text, _, _ := strings.Cut(rest, "```")
	return text
}

// hexdump writes what `xxd -g1 -c16` writes, without the text column.
func hexdump(data []byte) string {
	var out strings.Builder
	for at := 0; at < len(data); at += 16 {
		line := data[at:min(at+16, len(data))]
		out.WriteString(hex.EncodeToString([]byte{byte(at >> 8), byte(at)}))
		for _, b := range line {
			out.WriteString(" " + hex.EncodeToString([]byte{b}))
		}
		out.WriteByte('\n')
	}
	return out.String()
}

func dehex(t *testing.T, dump string) []byte {
	t.Helper()
	var out []byte
	for line := range strings.Lines(dump) {
		_, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		data, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, data...)
	}
	return out
}
