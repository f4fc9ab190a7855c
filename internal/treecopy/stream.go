// Package treecopy carries a file or a folder with all below it as a stream of
// bytes, from one end of the guest link to the other. Both ends use it: whichever
// has the files sends, the other receives.
//
// Input of a sender is a path, output is the stream; for a receiver it is the
// other way round. Content, permissions, times and links are kept, holes stay
// holes; owners, set-user-id bits, hard links, devices and pipes do not travel. A
// receiver believes nothing: every name stays below the place it was given,
// through links too, and every file is written beside its name and renamed when
// it is whole. After a crash what was complete is there, and at most one file
// whose name begins with ".smolvm-copy-".
package treecopy

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Bounds of a stream.
const (
	maxHeader = 64 << 10  // bytes of JSON
	chunk     = 128 << 10 // bytes of content in one frame
	maxSaid   = 100       // things left out that a summary names
)

// frame says what follows.
type frame byte

const (
	entryFrame  frame = 'E' // JSON of an Entry; a file's content follows
	dataFrame   frame = 'D' // offset (8 bytes), length (4 bytes), content
	closedFrame frame = 'C' // JSON of an ending: the file is complete
	skipFrame   frame = 'S' // JSON of a string: what was left out and why
	endFrame    frame = 'Z' // JSON of a Summary
	errorFrame  frame = 'X' // JSON of a string: why there is no more
)

// kind is what an Entry is.
type kind string

const (
	regular kind = "file"
	folder  kind = "dir"
	symlink kind = "link"
)

// name is a path or a link's target. It is any bytes; JSON strings are not.
type name string

// MarshalText makes base64 of it.
func (n name) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, []byte(n)), nil
}

// UnmarshalText undoes MarshalText.
func (n *name) UnmarshalText(text []byte) error {
	raw, err := base64.StdEncoding.AppendDecode(nil, text)
	*n = name(raw)
	return err
}

// entry is one thing of a tree.
type entry struct {
	Path   name   `json:"path"` // slashes, below what is copied, which itself is "."
	Kind   kind   `json:"kind"`
	Mode   uint32 `json:"mode,omitempty"` // permission bits
	Time   int64  `json:"time_ns,omitempty"`
	Size   int64  `json:"size,omitempty"` // bytes; unknown below 0
	Target name   `json:"target,omitempty"`
}

// unknownSize is that of a stream.
const unknownSize = -1

// ending is the end of a file's content.
type ending struct {
	Size int64 `json:"size"` // what it is now: a file may change while it is read
}

// Summary is what was copied.
type Summary struct {
	Files   int      `json:"files"`
	Folders int      `json:"folders"`
	Links   int      `json:"links"`
	Bytes   int64    `json:"bytes"`   // of content, holes left out
	Skipped []string `json:"skipped"` // what was left out and why, the first hundred
}

func (s *Summary) count(e entry) {
	switch e.Kind {
	case regular:
		s.Files++
	case folder:
		s.Folders++
	case symlink:
		s.Links++
	}
}

func (s *Summary) skip(text string) {
	if len(s.Skipped) < maxSaid {
		s.Skipped = append(s.Skipped, text)
	}
}

// ErrCut is the error of a stream that ends before it says so.
var ErrCut = errors.New("the connection ended in the middle")

// writer writes frames.
type writer struct{ out *bufio.Writer }

func newWriter(out io.Writer) *writer { return &writer{bufio.NewWriterSize(out, chunk+16)} }

func (w *writer) json(f frame, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(text) > maxHeader {
		return fmt.Errorf("a name is longer than %d bytes", maxHeader)
	}
	head := binary.BigEndian.AppendUint32([]byte{byte(f)}, uint32(len(text)))
	_, _ = w.out.Write(head)
	_, err = w.out.Write(text)
	return err
}

func (w *writer) data(at int64, p []byte) error {
	head := binary.BigEndian.AppendUint64([]byte{byte(dataFrame)}, uint64(at))
	head = binary.BigEndian.AppendUint32(head, uint32(len(p)))
	_, _ = w.out.Write(head)
	_, err := w.out.Write(p)
	return err
}

// end writes the last frame.
func (w *writer) end(s Summary, failed error) error {
	if failed != nil {
		text := failed.Error()
		if len(text) > maxHeader/8 { // JSON may take six times as much
			text = text[:maxHeader/8]
		}
		return errors.Join(w.json(errorFrame, text), w.out.Flush())
	}
	return errors.Join(w.json(endFrame, s), w.out.Flush())
}

// reader reads frames. What next gives is valid until it is called again.
type reader struct {
	in   *bufio.Reader
	text []byte
	at   int64
}

func newReader(in io.Reader) *reader { return &reader{in: bufio.NewReaderSize(in, chunk+16)} }

func (r *reader) next() (frame, []byte, error) {
	f, text, err := r.read()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrCut
	}
	return f, text, err
}

func (r *reader) read() (frame, []byte, error) {
	f, err := r.in.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	limit := maxHeader
	if frame(f) == dataFrame {
		var at [8]byte
		if _, err := io.ReadFull(r.in, at[:]); err != nil {
			return 0, nil, err
		}
		limit, r.at = chunk, int64(binary.BigEndian.Uint64(at[:]))
	}
	var size [4]byte
	if _, err := io.ReadFull(r.in, size[:]); err != nil {
		return 0, nil, err
	}
	n := int64(binary.BigEndian.Uint32(size[:]))
	if n > int64(limit) {
		return 0, nil, fmt.Errorf("a frame of %d bytes, the limit is %d", n, limit)
	}
	if int64(cap(r.text)) < n {
		r.text = make([]byte, n)
	}
	_, err = io.ReadFull(r.in, r.text[:n])
	return frame(f), r.text[:n], err
}

// last reads a frame that ends a stream, if it is one.
func last(f frame, text []byte) (s Summary, ended bool, err error) {
	switch f {
	case endFrame:
		err = json.Unmarshal(text, &s)
		return s, true, err
	case errorFrame:
		var said string
		if err := json.Unmarshal(text, &said); err != nil {
			return s, true, err
		}
		return s, true, &RemoteError{said}
	}
	return s, false, nil
}

// RemoteError is what the other end said of its failure. Where that is a guest
// the text may hold anything.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// Answer is how a receiver tells its sender the result.
func Answer(out io.Writer, s Summary, failed error) error { return newWriter(out).end(s, failed) }

// Result reads an Answer.
func Result(in io.Reader) (Summary, error) {
	f, text, err := newReader(in).next()
	if err != nil {
		return Summary{}, err
	}
	s, ended, err := last(f, text)
	if err == nil && !ended {
		err = fmt.Errorf("the answer is a frame %q", byte(f))
	}
	return s, err
}
