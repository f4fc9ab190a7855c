package treecopy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Progress is told how many bytes of content have been handled so far, and the
// size of the whole where that is known.
type Progress func(done, total int64)

// Send writes what is at a path. A link that is named is followed; those below it
// are copied as they are. A failure is told to the receiver, too.
func Send(out io.Writer, source string, progress Progress) (Summary, error) {
	s := &sender{out: newWriter(out), progress: progress}
	err := s.send(source)
	return s.sum, errors.Join(err, s.out.end(s.sum, err))
}

// SendStream writes one file whose content comes from in.
func SendStream(out io.Writer, in io.Reader, progress Progress) (Summary, error) {
	s := &sender{out: newWriter(out), progress: progress}
	err := s.stream(in)
	return s.sum, errors.Join(err, s.out.end(s.sum, err))
}

// sender is one Send.
type sender struct {
	out      *writer
	root     *os.Root // the folder that is copied, or that a single file is in; nobody leads out of it
	progress Progress
	total    int64 // of a single file; else unknown
	sum      Summary
	buf      []byte
}

func (s *sender) send(source string) error {
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return err
	}
	dir, at := real, "."
	if !info.IsDir() {
		dir, at = filepath.Split(real)
	}
	if s.root, err = os.OpenRoot(dir); err != nil {
		return err
	}
	defer s.root.Close()
	if info, err = s.root.Lstat(at); err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		s.total = info.Size()
	}
	return s.thing(at, ".", info)
}

// thing sends what is at a place below the root as the entry of a path.
func (s *sender) thing(at, as string, info fs.FileInfo) error {
	e := entry{Path: name(as), Mode: uint32(info.Mode().Perm()), Time: info.ModTime().UnixNano()}
	switch info.Mode().Type() {
	case 0:
		return s.file(at, e)
	case fs.ModeDir:
		return s.folder(at, e)
	case fs.ModeSymlink:
		target, err := s.root.Readlink(at)
		if err != nil {
			return s.skip(as, err)
		}
		e.Kind, e.Target, e.Mode = symlink, name(target), 0
		return s.entry(e)
	}
	return s.skip(as, errors.New("it is no file, folder or link"))
}

func (s *sender) entry(e entry) error {
	s.sum.count(e)
	return s.out.json(entryFrame, e)
}

// skip leaves something out that is not what was asked for itself.
func (s *sender) skip(as string, why error) error {
	if as == "." {
		return why
	}
	var denied *fs.PathError
	if errors.As(why, &denied) {
		why = denied.Err
	}
	text := fmt.Sprintf("%s: %v", as, why)
	if len(text) > maxHeader/8 {
		text = text[:maxHeader/8]
	}
	s.sum.skip(text)
	return s.out.json(skipFrame, text)
}

func (s *sender) folder(at string, e entry) error {
	dir, err := s.root.Open(at)
	if err != nil {
		return s.skip(string(e.Path), err)
	}
	entries, err := dir.ReadDir(-1)
	_ = dir.Close()
	if err != nil {
		return s.skip(string(e.Path), err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }) // everywhere the same
	e.Kind = folder
	if err := s.entry(e); err != nil {
		return err
	}
	for _, child := range entries {
		below := filepath.Join(at, child.Name())
		info, err := s.root.Lstat(below)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		as := path.Join(string(e.Path), child.Name())
		if err != nil {
			err = s.skip(as, err)
		} else {
			err = s.thing(below, as, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file sends a regular file. It may have become something else since it was
// looked at: opening does not wait for the other end of a pipe.
func (s *sender) file(at string, e entry) error {
	f, err := s.root.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return s.skip(string(e.Path), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return s.skip(string(e.Path), errors.Join(err, errors.New("it is no file any more")))
	}
	e.Kind, e.Size = regular, info.Size()
	if err := s.entry(e); err != nil {
		return err
	}
	return s.content(f, e)
}

// content sends the parts of a file that hold data.
func (s *sender) content(f *os.File, e entry) error {
	for at := int64(0); at < e.Size; {
		from, to := extent(f, at, e.Size)
		n, err := s.part(f, from, to)
		if err != nil {
			return err
		}
		if from+n < to { // it became shorter
			e.Size = from + n
		}
		at = to
	}
	return s.out.json(closedFrame, ending{e.Size})
}

// part sends a range of a file and returns how much of it there was.
func (s *sender) part(f *os.File, from, to int64) (int64, error) {
	s.grow()
	sent := int64(0)
	for from+sent < to {
		n, err := f.ReadAt(s.buf[:min(int64(len(s.buf)), to-from-sent)], from+sent)
		if n > 0 {
			if err := s.chunk(from+sent, s.buf[:n]); err != nil {
				return sent, err
			}
		}
		sent += int64(n)
		if errors.Is(err, io.EOF) {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func (s *sender) grow() {
	if s.buf == nil {
		s.buf = make([]byte, chunk)
	}
}

func (s *sender) chunk(at int64, p []byte) error {
	if err := s.out.data(at, p); err != nil {
		return err
	}
	s.sum.Bytes += int64(len(p))
	if s.progress != nil {
		s.progress(s.sum.Bytes, s.total)
	}
	return nil
}

func (s *sender) stream(in io.Reader) error {
	if err := s.entry(entry{Path: ".", Kind: regular, Mode: 0o644, Size: unknownSize}); err != nil {
		return err
	}
	s.grow()
	for at := int64(0); ; {
		n, err := io.ReadFull(in, s.buf)
		if n > 0 {
			if err := s.chunk(at, s.buf[:n]); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s.out.json(closedFrame, ending{at})
		}
		if err != nil {
			return err
		}
	}
}

// extent is the next part of a file from at that holds data, as the file system
// knows it; empty at size where only a hole is left.
func extent(f *os.File, at, size int64) (from, to int64) {
	from, err := f.Seek(at, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return size, size
	case err != nil: // it has no such question: all of it is data
		return at, size
	}
	to, err = f.Seek(from, seekHole)
	if err != nil || to <= from {
		to = size
	}
	return min(from, size), min(to, size)
}
