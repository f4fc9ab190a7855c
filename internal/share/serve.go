package share

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// ErrProtocol is in the error of Serve when the guest is to blame.
var ErrProtocol = errors.New("the guest broke the protocol of mounts")

// Serve answers one boot's messages until the stream ends. Another boot of the
// guest begins a new stream, and nothing of the earlier one counts any more. It
// returns once nothing works on a message; the caller closes the stream, which
// also ends Serve.
func (s *Server) Serve(stream io.ReadWriter) error {
	s.restart()
	defer s.restart()
	answers := &answerer{out: stream}
	queue := make(chan []byte)
	do := func(message []byte) {
		if answer := s.answer(parse(message)); answer != nil {
			answers.send(answer)
		}
	}
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for message := range queue {
				do(message)
			}
		})
	}
	// A lone question that takes microseconds is answered where it was read: waking
	// another goroutine, and so a processor, would take longer.
	err := receive(stream, func(message []byte, alone bool) {
		if alone && quick(parse(message).opcode) {
			do(message)
			return
		}
		queue <- message
	})
	close(queue)
	working.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// quick says whether an operation only looks at names and attributes or changes
// one: it reads and writes no content and waits for no disk but to find a file.
func quick(opcode uint32) bool {
	switch opcode {
	case opRead, opWrite, opFsync, opFsyncdir, opFallocate, opCopyFileRange, opSetattr, opReaddir, opReaddirplus, opLseek:
		return false
	}
	return true
}

// receive cuts the stream into messages, and tells which have nothing behind them.
func receive(stream io.Reader, give func(message []byte, alone bool)) error {
	in := bufio.NewReaderSize(stream, 256<<10)
	for {
		head, err := in.Peek(4)
		if err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(head)
		if n < headerIn || n > maxIn {
			return fmt.Errorf("%w: a message of %d bytes", ErrProtocol, n)
		}
		message := make([]byte, n)
		if _, err := io.ReadFull(in, message); err != nil {
			return fmt.Errorf("read a message of mounts: %w", err)
		}
		give(message, in.Buffered() == 0)
	}
}

// answerer writes whole answers. Once one cannot be written the stream is over,
// which receive learns by itself.
type answerer struct {
	mu  sync.Mutex
	out io.Writer
}

func (a *answerer) send(answer []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = a.out.Write(answer)
}

// answer does what one message asks for. It gives nil where no answer belongs.
func (s *Server) answer(r request) []byte {
	switch r.opcode {
	case opForget:
		s.watch.drop(s.table.forget(r.node, r.body.uint64()))
		return nil
	case opBatchForget:
		s.batchForget(&r.body)
		return nil
	case opInterrupt:
		return nil // nothing here waits for anything but the disk
	}
	asked := r.body
	out, err := s.do(&r)
	if r.opcode == opRelease || r.opcode == opReleasedir {
		return nil // the guest's agent has answered it already
	}
	if out == nil {
		out = newWriter(0)
	}
	if err != nil {
		return out.finish(r.unique, errnoOf(err))
	}
	answer := out.finish(r.unique, 0)
	if ahead := s.foretell(&r, asked, out); ahead != nil {
		return append(ahead, answer...)
	}
	return answer
}

func (s *Server) batchForget(in *reader) {
	n := in.uint32()
	in.uint32()
	for range n {
		node, count := in.uint64(), in.uint64()
		if in.short {
			return
		}
		s.watch.drop(s.table.forget(node, count))
	}
}

// do finds the operation's function. A message that is too short for its
// operation is refused before anything was done for it.
func (s *Server) do(r *request) (*writer, error) {
	if need, known := least[r.opcode]; !known {
		return nil, syscall.ENOSYS
	} else if len(r.body.rest) < need {
		return nil, syscall.EINVAL
	}
	switch r.opcode {
	case opInit:
		return hello(&r.body)
	case opDestroy:
		return nil, nil
	case opRead, opWrite, opRelease, opReleasedir, opFsync, opFsyncdir, opFallocate, opLseek, opCopyFileRange,
		opReaddir, opReaddirplus:
		return s.withHandle(r)
	}
	n := s.table.get(r.node)
	if n == nil {
		return nil, syscall.ESTALE
	}
	if n.tree == nil {
		return s.rootOperation(n, r)
	}
	if n.tree.gone.Load() {
		return nil, syscall.ENODEV
	}
	if r.opcode == opSetattr && isTouch(r.body) {
		return s.getattr(n, nil)
	}
	if n.tree.ReadOnly && changes(r.opcode) {
		return nil, syscall.EROFS
	}
	return s.onNode(n, r)
}

// least is the shortest body of each operation.
var least = map[uint32]int{
	opLookup: 2, opGetattr: 16, opSetattr: 88, opReadlink: 0, opSymlink: 4, opMknod: 18, opMkdir: 10, opUnlink: 2,
	opRmdir: 2, opRename: 12, opLink: 10, opOpen: 8, opRead: 40, opWrite: 40, opStatfs: 0, opRelease: 24, opFsync: 16,
	opSetxattr: 11, opGetxattr: 10, opListxattr: 8, opRemovexattr: 2, opInit: 16, opOpendir: 8, opReaddir: 40,
	opReleasedir: 24, opFsyncdir: 16, opCreate: 18, opDestroy: 0, opFallocate: 32, opReaddirplus: 40, opRename2: 20,
	opLseek: 24, opCopyFileRange: 56,
}

// changes says whether an operation on a name or node changes something. That of
// an open file is decided when it is opened.
func changes(opcode uint32) bool {
	switch opcode {
	case opSetattr, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opRename2, opLink, opCreate, opSetxattr,
		opRemovexattr:
		return true
	}
	return false
}

// onNode does what concerns a file of a mount.
func (s *Server) onNode(n *node, r *request) (*writer, error) {
	in := &r.body
	switch r.opcode {
	case opLookup:
		return s.lookup(n, in)
	case opGetattr:
		return s.getattr(n, in)
	case opSetattr:
		return s.setattr(n, in)
	case opReadlink:
		return s.readlink(n)
	case opSymlink, opMknod, opMkdir:
		return s.makeEntry(n, r.opcode, in)
	case opUnlink, opRmdir:
		return s.unlink(n, r.opcode, in)
	case opRename, opRename2:
		return s.rename(n, r.opcode, in)
	case opLink:
		return s.link(n, in)
	case opOpen:
		return s.open(n, in)
	case opCreate:
		return s.create(n, in)
	case opOpendir:
		return s.opendir(n)
	case opStatfs:
		return s.statfs(n)
	}
	return s.attribute(n, r.opcode, in)
}

// hello is the opening exchange.
func hello(in *reader) (*writer, error) {
	major, minor, readAhead, offered := in.uint32(), in.uint32(), in.uint32(), in.uint32()
	if major != protocolMajor || minor < leastMinor {
		return nil, syscall.EPROTO
	}
	w := newWriter(64)
	w.uint32(protocolMajor)
	w.uint32(min(minor, protocolMinor))
	w.uint32(min(readAhead, maxData))
	w.uint32(offered & wanted)
	w.uint32(64 | 48<<16)              // requests under way in the background, and when that is much
	w.uint32(maxData)                  // of one write
	w.uint32(1)                        // times are kept to the nanosecond
	w.uint32(maxData / (4 << 10))      // pages of one message; no alignment of maps
	w.zeros(64 - len(w.b) + headerOut) // nothing of what came later
	return w, nil
}

// FirstBytes are those that every guest's kernel begins with: the length and
// number of the opening exchange.
func FirstBytes() []byte {
	b := binary.LittleEndian.AppendUint32(nil, headerIn+64)
	return binary.LittleEndian.AppendUint32(b, opInit)
}
