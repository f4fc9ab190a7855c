package guestlink

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/smolvm/smolvm/internal/wire"
)

// maxGarbage bounds the bytes dropped before the opening line: more than QEMU
// and a socket can hold of an earlier boot, and too little to keep the host busy.
const maxGarbage = 16 << 20

// openingLen is the length of an opening line without its newline.
const openingLen = len(wire.Magic) + 2*wire.NonceLen

// muxVersion is the first byte of every yamux frame. No opening line starts with it.
const muxVersion = 0

// errNoOpening says that the bound on garbage was reached.
var errNoOpening = fmt.Errorf("%w: no opening line in its first %d bytes", ErrProtocol, maxGarbage)

// shakeHands finds the guest's opening line and echoes it. A guest that
// rebooted before the host listened leaves an opening line of its earlier boot
// in front; the guest ignores the echo of that one, and the next bytes are its
// newer line, so the scan goes on until the multiplexer's first byte.
//
// begun looks at the bytes behind an echo.
func shakeHands(in *bufio.Reader, out io.Writer, begun func(*bufio.Reader) (bool, error)) error {
	budget := maxGarbage
	for {
		line, n, err := scanOpening(in, budget)
		if err != nil {
			return err
		}
		budget -= n
		if _, err := out.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("echo the opening line: %w", err)
		}
		switch yes, err := begun(in); {
		case err != nil:
			return fmt.Errorf("wait for what follows the guest's opening line: %w", err)
		case yes:
			return nil
		}
	}
}

// muxBegun recognizes the multiplexer.
func muxBegun(in *bufio.Reader) (bool, error) {
	next, err := in.Peek(1)
	return err == nil && next[0] == muxVersion, err
}

// scanOpening reads up to and including the next opening line and returns the
// line without its newline and the number of bytes read, at most budget.
func scanOpening(in *bufio.Reader, budget int) (line []byte, n int, err error) {
	var tail []byte // the last openingLen bytes before what is read next
	for {
		chunk, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, n, fmt.Errorf("wait for the guest's opening line: %w", err)
		}
		n += len(chunk)
		if n > budget {
			return nil, n, errNoOpening
		}
		tail = append(tail, chunk...)
		if err == nil && isOpening(tail[:len(tail)-1]) {
			return bytes.Clone(tail[len(tail)-1-openingLen : len(tail)-1]), n, nil
		}
		if len(tail) > openingLen {
			tail = append(tail[:0], tail[len(tail)-openingLen:]...)
		}
	}
}

// isOpening says whether b ends with an opening line.
func isOpening(b []byte) bool {
	if len(b) < openingLen {
		return false
	}
	nonce, ok := bytes.CutPrefix(b[len(b)-openingLen:], []byte(wire.Magic))
	if !ok {
		return false
	}
	_, err := hex.DecodeString(string(nonce))
	return err == nil
}
