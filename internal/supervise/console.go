package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"
)

// The logs of console and network keep the last 1 to 2 MiB: when one reaches consoleMax, all but
// the last consoleKeep bytes are dropped. A guest that floods its console costs
// the host a copy of 1 MiB for each MiB, and never more space.
const (
	consoleMax  = 2 << 20
	consoleKeep = 1 << 20
)

// console is the capped log of the guest's serial console, or of its network. It is one file that
// is shortened in place, so that its path always holds all that is kept; who
// follows it sees it get shorter. A crash while it is shortened leaves a log
// with a repeated part.
type console struct {
	mu   sync.Mutex
	file *os.File
	size int64
	err  error // the first failure; what follows is dropped
}

// openConsole begins a new log.
func openConsole(path string) (*console, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the console log: %w", err)
	}
	return &console{file: f}, nil
}

// openNetworkLog goes on with the log of earlier runs, or begins one.
func openNetworkLog(path string) (*console, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of the network: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the log of the network: %w", err), f.Close())
	}
	return &console{file: f, size: size}, nil
}

// Write appends to the log. It never fails: a full disk loses lines of the
// console, and must not stop the guest.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for rest := p; len(rest) > 0 && c.err == nil; {
		part := rest[:min(len(rest), consoleMax-consoleKeep)]
		rest = rest[len(part):]
		c.err = c.append(part)
	}
	return len(p), nil
}

func (c *console) append(p []byte) error {
	if c.size+int64(len(p)) > consoleMax {
		if err := c.shorten(); err != nil {
			return err
		}
	}
	n, err := c.file.WriteAt(p, c.size)
	c.size += int64(n)
	return err
}

// shorten keeps the last consoleKeep bytes, from a line's start on where there is one.
func (c *console) shorten() error {
	tail := make([]byte, consoleKeep)
	n, err := c.file.ReadAt(tail, max(0, c.size-consoleKeep))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	tail = tail[:n]
	if i := bytes.IndexByte(tail, '\n'); i >= 0 && i < len(tail)-1 {
		tail = tail[i+1:]
	}
	if _, err := c.file.WriteAt(tail, 0); err != nil {
		return err
	}
	c.size = int64(len(tail))
	return c.file.Truncate(c.size)
}

// tail gives the last lines that a person can read.
func (c *console) tail(lines int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	const most = 16 << 10
	buf := make([]byte, min(c.size, most))
	n, _ := c.file.ReadAt(buf, c.size-int64(len(buf))) // what can be read is enough
	text := plain(string(buf[:n]))
	if int64(n) < c.size {
		_, text, _ = strings.Cut(text, "\n") // the first line is cut
	}
	var kept []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \t\n"); line != "" {
			kept = append(kept, clipLine(line))
		}
	}
	return kept[max(0, len(kept)-lines):]
}

// maxLine bounds a quoted line in bytes.
const maxLine = 200

func clipLine(line string) string {
	if len(line) <= maxLine {
		return line
	}
	return strings.ToValidUTF8(line[:maxLine], "") + "..."
}

func (c *console) close() { _ = c.file.Close() }

// plain makes what a guest wrote safe to show: terminal control sequences
// (ECMA-48) and control characters but newline and tab are dropped.
func plain(text string) string {
	var out strings.Builder
	for len(text) > 0 {
		r, width := utf8.DecodeRuneInString(text)
		switch {
		case r == '\x1b':
			width = sequenceLen(text)
		case r == utf8.RuneError && width == 1:
			out.WriteByte('?')
		case r == '\n' || r == '\t' || r >= ' ' && (r < 0x7f || r >= 0xa0) && !isFormat(r):
			out.WriteRune(r)
		}
		text = text[width:]
	}
	return out.String()
}

// isFormat names the invisible characters that change how others are shown:
// directions, joins and separators.
func isFormat(r rune) bool {
	return r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2060 && r <= 0x206f || r == 0xfeff
}

// sequenceLen is the length of the control sequence text starts with.
func sequenceLen(text string) int {
	if len(text) < 2 {
		return len(text)
	}
	switch text[1] {
	case '[': // parameters and intermediates up to a final byte
		for i := 2; i < len(text); i++ {
			if text[i] < 0x20 || text[i] > 0x7e {
				return i // not a sequence after all
			}
			if text[i] >= 0x40 {
				return i + 1
			}
		}
		return len(text)
	case ']', 'P', 'X', '^', '_': // a string up to BEL or ESC \, at most to the line's end
		for i := 2; i < len(text); i++ {
			switch {
			case text[i] == '\n':
				return i
			case text[i] == '\a':
				return i + 1
			case text[i] == '\x1b' && i+1 < len(text) && text[i+1] == '\\':
				return i + 2
			}
		}
		return len(text)
	}
	if text[1] < 0x20 || text[1] > 0x7e {
		return 1
	}
	return 2
}
