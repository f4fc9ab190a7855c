package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// The tar is a plain one of regular files (ustar, two zero blocks at the end), in
// the only form that tarWriter gives it: the reader compares every header, byte
// for byte, with the one it would have written itself. So there is nothing in it
// that two readers could understand differently: no links, devices, folders,
// holes, long names, other owners or times.
const (
	blockSize = 512
	nameSize  = 100 // of a header's name field
	magicAt   = 257
)

var zeroBlock [blockSize]byte

// header is the block before a file's bytes.
func header(name string, size int64) [blockSize]byte {
	var b [blockSize]byte
	copy(b[:nameSize-1], name)
	copy(b[100:], "0000644")
	copy(b[108:], "0000000") // owner
	copy(b[116:], "0000000") // group
	copy(b[124:], fmt.Sprintf("%011o", size))
	copy(b[136:], "00000000000") // time
	copy(b[148:], "        ")    // checksum while it is counted
	b[156] = '0'                 // a regular file
	copy(b[magicAt:], "ustar\x0000")
	copy(b[329:], "0000000") // device, major and minor
	copy(b[337:], "0000000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00", sum))
	return b
}

// padding is what follows size bytes up to the next block.
func padding(size int64) int64 { return (blockSize - size%blockSize) % blockSize }

// entrySize is what a file of size bytes takes in a tar.
func entrySize(size int64) int64 { return blockSize + size + padding(size) }

// tarWriter writes files one after the other.
type tarWriter struct {
	dst     io.Writer
	written int64
}

func (t *tarWriter) write(data []byte) error {
	n, err := t.dst.Write(data)
	t.written += int64(n)
	return err
}

// add writes one file.
func (t *tarWriter) add(name string, data []byte) error {
	if len(name) >= nameSize {
		return fmt.Errorf("the name %.120q is too long for a tar", name)
	}
	head := header(name, int64(len(data)))
	for _, part := range [][]byte{head[:], data, zeroBlock[:padding(int64(len(data)))]} {
		if err := t.write(part); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

func (t *tarWriter) end() error { return errors.Join(t.write(zeroBlock[:]), t.write(zeroBlock[:])) }

// tarReader reads a tar of which the caller knows what comes next.
type tarReader struct {
	src  io.Reader
	read int64
}

const copyHint = "It was damaged on its way, or changed: copy it again, or save it anew. Nothing of it is used."

// next reads the header of the next file, which has to have that name and at
// most limit bytes, and returns its size.
func (t *tarReader) next(name string, limit int64) (int64, error) {
	var b [blockSize]byte
	if err := t.fill(b[:]); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if b == zeroBlock {
		return 0, t.refuse("it ends where %s should follow", name)
	}
	size, err := strconv.ParseInt(string(b[124:135]), 8, 64)
	found, _, _ := strings.Cut(string(b[:nameSize]), "\x00")
	switch {
	case found != name:
		return 0, t.refuse("%.100q follows where %s should", found, name)
	case err != nil || size < 0 || b != header(name, size):
		return 0, t.refuse("the header of %s is not one that `smolvm image save` writes", name)
	case size > limit:
		return 0, t.refuse("%s has %d bytes, at most %d are allowed", name, size, limit)
	}
	return size, nil
}

// body reads the bytes of a file into buffer, whose length is the file's size.
func (t *tarReader) body(name string, buffer []byte) error {
	var pad [blockSize]byte
	rest := pad[:padding(int64(len(buffer)))]
	for _, part := range [][]byte{buffer, rest} {
		if err := t.fill(part); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if !bytes.Equal(rest, zeroBlock[:len(rest)]) {
		return t.refuse("bytes hidden behind %s", name)
	}
	return nil
}

// file reads a small file as a whole.
func (t *tarReader) file(name string, limit int64) ([]byte, error) {
	size, err := t.next(name, limit)
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	return data, t.body(name, data)
}

// end reads the last two blocks, and that nothing follows them.
func (t *tarReader) end() error {
	for range 2 {
		var b [blockSize]byte
		if err := t.fill(b[:]); err != nil {
			return fmt.Errorf("its end: %w", err)
		}
		if b != zeroBlock {
			return t.refuse("more follows where it should end")
		}
	}
	switch n, err := io.ReadFull(t.src, make([]byte, 1)); {
	case n > 0:
		return t.refuse("bytes follow its end")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("after its end: %w", err)
	}
	return nil
}

func (t *tarReader) fill(buffer []byte) error {
	n, err := io.ReadFull(t.src, buffer)
	t.read += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return t.refuse("the tar is cut off after %d bytes", t.read)
	}
	return err
}

func (t *tarReader) refuse(format string, args ...any) error {
	return fault.New(fault.Trust, copyHint, format, args...)
}
