package cli

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// defaultDetachKeys are docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// heldKeys is how long the beginning of the detach keys is held back from the
// program, for which it may have a meaning.
const heldKeys = time.Second

// errDetached is the end of an attach that leaves the program running: status 0,
// and nothing more is said about it.
const errDetached = programExit(0)

// parseDetachKeys reads keys such as "ctrl-p,ctrl-q" or "ctrl-a,d", as docker
// writes them. None means that nothing detaches.
func parseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for word := range strings.SplitSeq(text, ",") {
		letter, control := strings.CutPrefix(strings.ToLower(word), "ctrl-")
		switch {
		case control && len(letter) == 1 && strings.Contains("abcdefghijklmnopqrstuvwxyz@[\\]^_", letter):
			keys = append(keys, strings.ToUpper(letter)[0]&0x1f)
		case len(word) == 1 && word[0] > ' ' && word[0] < 0x7f:
			keys = append(keys, word[0])
		default:
			return nil, refuse("Write them as in --detach-keys "+defaultDetachKeys+"; an empty word turns them off.",
				"--detach-keys %q: %q is no key", text, word)
		}
	}
	return keys, nil
}

// keyboard passes a terminal's input on until the detach keys are typed. They are
// known in all forms in which terminals send them, as programs ask for.
type keyboard struct {
	keys   []byte
	detach func()
	in     io.Reader
	chunks chan []byte
	done   chan struct{}
	ending sync.Once

	matched int    // of keys
	held    []byte // what was typed of them
	out     []byte // to be read
	err     error
}

// newKeyboard begins to read in; a read in progress goes on in the background when
// the keyboard is given up.
func newKeyboard(in io.Reader, keys []byte, detach func()) *keyboard {
	k := &keyboard{keys: keys, detach: detach, in: in, chunks: make(chan []byte), done: make(chan struct{})}
	go k.pump()
	return k
}

func (k *keyboard) pump() {
	defer close(k.chunks)
	for {
		chunk := make([]byte, 32<<10)
		n, err := k.in.Read(chunk)
		select {
		case k.chunks <- chunk[:n]:
		case <-k.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read gives what is for the program.
func (k *keyboard) Read(p []byte) (int, error) {
	for len(k.out) == 0 {
		if k.err != nil {
			return 0, k.err
		}
		k.wait()
	}
	n := copy(p, k.out)
	k.out = k.out[n:]
	return n, nil
}

// wait takes the next input, or lets go of what was held back for too long.
func (k *keyboard) wait() {
	var late <-chan time.Time
	if len(k.held) > 0 {
		timer := time.NewTimer(heldKeys)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case chunk, open := <-k.chunks:
		if k.take(chunk); !open {
			k.release()
			k.err = io.EOF
		}
	case <-late:
		k.release()
	case <-k.done:
		k.err = os.ErrDeadlineExceeded
	}
}

// SetReadDeadline ends a Read in progress, whatever the time.
func (k *keyboard) SetReadDeadline(t time.Time) error {
	k.ending.Do(func() { close(k.done) })
	if d, ok := k.in.(interface{ SetReadDeadline(time.Time) error }); ok {
		return d.SetReadDeadline(t)
	}
	return nil
}

func (k *keyboard) take(chunk []byte) {
	for len(chunk) > 0 && k.err == nil {
		key, kind, width := readKey(chunk)
		k.press(key, kind, chunk[:width])
		chunk = chunk[width:]
	}
}

// press decides about one key.
func (k *keyboard) press(key byte, kind keyKind, typed []byte) {
	switch {
	case kind == silentKey && k.matched > 0:
		k.held = append(k.held, typed...)
	case kind == pressedKey && key == k.keys[k.matched]:
		k.held = append(k.held, typed...)
		if k.matched++; k.matched == len(k.keys) {
			k.held, k.err = nil, io.EOF
			k.detach()
		}
	case k.matched > 0:
		k.release()
		k.press(key, kind, typed)
	default:
		k.out = append(k.out, typed...)
	}
}

func (k *keyboard) release() {
	k.out = append(k.out, k.held...)
	k.held, k.matched = nil, 0
}

// keyKind is what a piece of input means for the detach keys.
type keyKind int

const (
	otherKey   keyKind = iota
	pressedKey         // one that is a byte on a plain keyboard
	silentKey          // a release, or a modifier alone
)

// readKey reads the first key of input, in the form of old terminals, of kitty's
// keyboard protocol (CSI number ; modifiers : event u) or of xterm's
// modifyOtherKeys (CSI 27 ; modifiers ; number ~).
func readKey(input []byte) (key byte, kind keyKind, width int) {
	if input[0] != 0x1b {
		return input[0], pressedKey, 1
	}
	if len(input) < 3 || input[1] != '[' {
		return 0, otherKey, 1
	}
	end := bytes.IndexFunc(input[2:], func(r rune) bool { return r < '0' || r > ';' })
	if end < 0 {
		return 0, otherKey, len(input)
	}
	width = 2 + end + 1
	params := strings.Split(string(input[2:2+end]), ";")
	switch final := input[2+end]; {
	case final == 'u':
		number, _, _ := strings.Cut(params[0], ":")
		modifiers, event := "1", ""
		if len(params) > 1 {
			modifiers, event, _ = strings.Cut(params[1], ":")
		}
		key, kind = codeOf(number, modifiers, event)
	case final == '~' && len(params) == 3 && params[0] == "27":
		key, kind = codeOf(params[2], params[1], "")
	}
	return key, kind, width
}

// Numbers of the protocol.
const (
	firstModifierKey, lastModifierKey = 57441, 57454
	control                           = 4
	locks                             = 64 | 128 // caps and num lock, which may be on
)

func codeOf(number, modifiers, event string) (key byte, kind keyKind) {
	code, err := strconv.Atoi(number)
	held, wrong := strconv.Atoi(modifiers)
	if modifiers == "" {
		held, wrong = 1, nil
	}
	switch {
	case err != nil || wrong != nil:
		return 0, otherKey
	case event == "3" || code >= firstModifierKey && code <= lastModifierKey:
		return 0, silentKey
	}
	switch held = (held - 1) &^ locks; {
	case held == control && code >= '@' && code < 0x7f:
		return byte(code) & 0x1f, pressedKey
	case held == 0 && code > 0 && code < 0x7f:
		return byte(code), pressedKey
	}
	return 0, otherKey
}
