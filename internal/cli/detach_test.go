package cli

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseDetachKeys(t *testing.T) {
	for text, want := range map[string]string{
		defaultDetachKeys: "\x10\x11", "": "", "ctrl-a,d": "\x01d", "Ctrl-]": "\x1d", "ctrl-@,ctrl-_": "\x00\x1f", "~,.": "~.",
	} {
		if got, err := parseDetachKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-pq", "pq", "é", "ctrl-p,", " "} {
		if got, err := parseDetachKeys(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// typed lets a keyboard read pieces of input, and says what came out and whether
// it detached.
func typed(pieces ...string) (out string, detached bool) {
	in, typing := io.Pipe()
	go func() {
		for _, p := range pieces {
			if _, err := io.WriteString(typing, p); err != nil {
				return
			}
		}
		typing.Close()
	}()
	k := newKeyboard(in, []byte{0x10, 0x11}, func() { detached = true })
	all, _ := io.ReadAll(k)
	in.Close()
	_ = k.SetReadDeadline(time.Time{})
	return string(all), detached
}

func TestDetachKeys(t *testing.T) {
	for _, c := range []struct {
		typed    []string
		out      string
		detached bool
	}{
		{[]string{"ls\r", "\x10\x11", "lost"}, "ls\r", true},
		{[]string{"\x10", "\x11"}, "", true},
		{[]string{"\x10\x10\x11"}, "\x10", true},
		{[]string{"\x10x\x11"}, "\x10x\x11", false},
		{[]string{"\x11\x10"}, "\x11\x10", false},
		{[]string{"\x1b[112;5u\x1b[113;5u"}, "", true},
		{[]string{"\x1b[57442;5:1u\x1b[112;5:1u\x1b[112;5:3u", "\x1b[113;5:1u\x1b[113;5:3u"}, "\x1b[57442;5:1u", true},
		{[]string{"\x1b[112:80;69u", "\x11"}, "", true}, // with caps lock, and a shifted key told
		{[]string{"\x1b[27;5;112~\x1b[27;5;113~"}, "", true},
		{[]string{"\x1b[112;6u\x1b[113;5u"}, "\x1b[112;6u\x1b[113;5u", false}, // with shift
		{[]string{"\x1b[112u\x1b[113u"}, "\x1b[112u\x1b[113u", false},
		{[]string{"\x10\x1b[A\x11"}, "\x10\x1b[A\x11", false},
		{[]string{"\x1b", "[", "\x1b[;u", "\x1b[x;yu\x1b[1;2R\x1b]11;rgb\x1b\\"}, "\x1b[\x1b[;u\x1b[x;yu\x1b[1;2R\x1b]11;rgb\x1b\\", false},
		{[]string{"日本語\x10é"}, "日本語\x10é", false},
	} {
		if out, detached := typed(c.typed...); out != c.out || detached != c.detached {
			t.Errorf("%q: %q came out, detached %v; want %q, %v", c.typed, out, detached, c.out, c.detached)
		}
	}
}

// A key that might have been the first of them reaches the program after a while.
func TestHeldKeysAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, typing := io.Pipe()
		k := newKeyboard(in, []byte{0x10, 0x11}, func() { t.Error("detached") })
		go func() { _, _ = typing.Write([]byte{0x10}) }()
		begun, key := time.Now(), make([]byte, 10)
		if n, err := k.Read(key); n != 1 || key[0] != 0x10 || err != nil || time.Since(begun) != heldKeys {
			t.Errorf("%q, %v after %v", key[:n], err, time.Since(begun))
		}
		go func() { _, _ = typing.Write([]byte{0x11}) }()
		if n, err := k.Read(key); n != 1 || key[0] != 0x11 || err != nil {
			t.Errorf("%q, %v", key[:n], err)
		}
		go func() { _ = k.SetReadDeadline(time.Now()) }()
		if _, err := k.Read(key); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("given up: %v", err)
		}
		typing.Close()
	})
}

func FuzzDetachKeys(f *testing.F) {
	f.Add([]byte("\x1b[112;5:1u\x10\x1b[27;5;112~x"), 3)
	f.Fuzz(func(t *testing.T, input []byte, cut int) {
		cut = max(0, min(cut, len(input)))
		k := &keyboard{keys: []byte{0x10, 0x11}, detach: func() {}}
		k.take(input[:cut])
		k.take(input[cut:])
		k.release()
		if k.err == nil && !bytes.Equal(k.out, input) {
			t.Errorf("%q became %q", input, k.out)
		}
	})
}
