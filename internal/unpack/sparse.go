package unpack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directRun is the shortest run that is worth a transfer of its own.
const directRun = 256 << 10

var zeroBlock [block]byte

// isZero reports whether all bytes are zero.
func isZero(data []byte) bool {
	for len(data) > block {
		if !bytes.Equal(data[:block], zeroBlock[:]) {
			return false
		}
		data = data[block:]
	}
	return bytes.Equal(data, zeroBlock[:len(data)])
}

// writeSparse writes the runs of blocks that hold anything. The others stay the
// holes they are, or become holes where older bytes lie.
func (w *Writer) writeSparse(data []byte, at int64) error {
	used, err := hasData(w.dst, at, int64(len(data)))
	if err != nil {
		return err
	}
	for len(data) > 0 {
		zero := isZero(data[:min(block, len(data))])
		n := run(data, zero)
		switch {
		case !zero:
			err = w.writeRun(data[:n], at)
		case used:
			err = w.clear(at, int64(n))
		}
		if err != nil {
			return err
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

// writeRun writes one run of blocks: long ones past the page cache, short ones
// through it, which the disk is then told to begin with. Either way the last
// fsync finds little left to do.
//
// What is past the cache costs no copy and takes none of the user's memory: a
// launch reads a fifth of an image, and most of that once.
func (w *Writer) writeRun(data []byte, at int64) error {
	if whole := len(data) / block * block; whole >= directRun && w.direct != nil && !w.refused.Load() && aligned(data) {
		switch _, err := w.direct.WriteAt(data[:whole], at); {
		case errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported):
			w.refused.Store(true)
		case err != nil:
			return fmt.Errorf("write %d bytes at %d: %w", whole, at, err)
		default:
			data, at = data[whole:], at+int64(whole)
		}
	}
	if len(data) == 0 {
		return nil
	}
	if err := writeAt(w.dst, data, at); err != nil {
		return err
	}
	writeBack(w.dst, at, int64(len(data)))
	return nil
}

// aligned reports whether the memory begins at a block, as direct writes need.
func aligned(data []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(data)))%block == 0 }

// run is the length of the first run of blocks that are all zero, or all not.
func run(data []byte, zero bool) int {
	n := min(block, len(data))
	for n < len(data) && isZero(data[n:min(n+block, len(data))]) == zero {
		n = min(n+block, len(data))
	}
	return n
}

// clear makes a part of the file read as zeros: a hole, or zeros where the file
// system has no holes.
func (w *Writer) clear(at, length int64) error {
	used, err := hasData(w.dst, at, length)
	if err != nil || !used {
		return err
	}
	err = w.punch(w.dst, at, length)
	if err == nil || !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for end := at + length; at < end; at += block {
		if err := writeAt(w.dst, zeroBlock[:min(block, end-at)], at); err != nil {
			return err
		}
	}
	return nil
}

func writeAt(dst *os.File, data []byte, at int64) error {
	if _, err := dst.WriteAt(data, at); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", len(data), at, err)
	}
	return nil
}

// hasData reports whether any byte of a part of the file may be other than zero
// because the file system keeps it. A file system that knows no holes says yes.
func hasData(file *os.File, at, length int64) (bool, error) {
	next, err := file.Seek(at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO): // nothing but a hole from here to the end
		return false, nil
	case errors.Is(err, syscall.EINVAL), errors.Is(err, errors.ErrUnsupported):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look for data at %d: %w", at, err)
	}
	return next < at+length, nil
}

// ReadFrame reads frame i of an expanded file into buffer, which it makes longer
// when it is too short, and checks its digest.
func ReadFrame(ix Index, file io.ReaderAt, i int, buffer []byte) ([]byte, error) {
	size := ix.Length(i)
	if int64(cap(buffer)) < size {
		buffer = make([]byte, size)
	}
	buffer = buffer[:size]
	if n, err := file.ReadAt(buffer, ix.Place(i)); int64(n) < size {
		return nil, fmt.Errorf("read frame %d: %w", i, err)
	}
	if !ix.holds(i, buffer) {
		return nil, fmt.Errorf("frame %d, expanded: %w", i, ErrDigest)
	}
	return buffer, nil
}
