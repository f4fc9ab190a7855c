package supervise

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// kind says what a frame of the control socket carries.
type kind byte

// The kinds. The client's first frame is a request; the server answers with
// accepted or failed. After an accepted exec the client sends stdin, stdinEnd,
// resize and signal, the server stdout, stderr, credit, and last exited or
// failed. After an accepted ssh the bytes are raw. Otherwise accepted carries
// the answer and ends the connection.
const (
	requested kind = 'R' // JSON: request
	accepted  kind = 'A' // JSON: the answer, may be empty
	failed    kind = 'F' // JSON: failure
	stdin     kind = 'i' // bytes, at most what credit allows
	stdinEnd  kind = 'e'
	resize    kind = 'z' // JSON: wire.Size
	signal    kind = 's' // name without SIG
	stdout    kind = 'o'
	stderr    kind = 'x'
	credit    kind = 'c' // 4 bytes big-endian: as many more bytes of stdin may be sent
	exited    kind = 'q' // JSON: exitReport
	opening   kind = 'u' // JSON: addressView, to clients that want addresses
)

const (
	headerLen = 5 // kind, then the payload's length, 4 bytes big-endian
	// maxFrame is the longest payload in bytes. A request holds a wire.Start
	// (at most wire.MaxMessage), quoted once more.
	maxFrame = 256 << 10
	// chunk is how many bytes of a stream travel in one frame: what one SSH packet
	// carries.
	chunk = 32 << 10
	// stdinCredit is how many bytes of stdin the server holds for a program that
	// does not read; the socket stays free for resizes, signals and the hang-up.
	stdinCredit = 256 << 10
)

// frameWriter writes whole frames from several goroutines.
type frameWriter struct {
	mu  sync.Mutex
	out io.Writer
	buf []byte
}

func (w *frameWriter) send(k kind, payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("send a control frame: %d bytes, the limit is %d", len(payload), maxFrame)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], byte(k))
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(payload)))
	w.buf = append(w.buf, payload...)
	_, err := w.out.Write(w.buf)
	return err
}

func (w *frameWriter) sendJSON(k kind, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode a control frame: %w", err)
	}
	return w.send(k, payload)
}

// sendStream sends all that in gives as frames of one kind.
func (w *frameWriter) sendStream(k kind, in io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if err := w.send(k, buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF { //nolint:errorlint // io.Reader's contract
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// frameReader reads frames. A payload is valid until the next frame is read.
type frameReader struct {
	in     io.Reader
	header [headerLen]byte
	buf    []byte
}

// next reads one frame; io.EOF at the end of the stream between two frames.
func (r *frameReader) next() (kind, []byte, error) {
	if _, err := io.ReadFull(r.in, r.header[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(r.header[1:]))
	if n > maxFrame {
		return 0, nil, fmt.Errorf("read a control frame: %d bytes, the limit is %d", n, maxFrame)
	}
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	if _, err := io.ReadFull(r.in, r.buf[:n]); err != nil {
		if err == io.EOF { //nolint:errorlint // ReadFull returns it bare
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind(r.header[0]), r.buf[:n], nil
}
