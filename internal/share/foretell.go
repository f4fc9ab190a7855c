package share

import (
	"encoding/binary"

	"github.com/smolvm/smolvm/internal/wire"
)

// maxForetold is the size of a file that is sent along when it is opened: larger
// ones would make a guest wait that does not read them whole.
const maxForetold = 16 << 10

// foretell gives the answers to what the guest's kernel asks next, as a rule:
// each request that is not made saves two machines a wake-up. It asks for a
// folder's attributes after each change in it, for a file's after each write, and
// for the content of a small file that it has opened.
func (s *Server) foretell(r *request, asked reader, out *writer) []byte {
	switch r.opcode {
	case opCreate, opMknod, opMkdir, opSymlink, opLink, opUnlink, opRmdir:
		return s.foretellFolder(r, r.node)
	case opRename, opRename2:
		target := asked.uint64()
		told := s.foretellFolder(r, r.node)
		if target != r.node {
			told = append(told, s.foretellFolder(r, target)...)
		}
		return told
	case opWrite:
		return s.foretellWritten(r, asked.uint64())
	case opLookup:
		found := reader{rest: out.b[headerOut:]}
		if found.uint64() != 0 {
			return s.foretellSiblings(r, asked.text())
		}
	case opOpen:
		return s.foretellContent(r, asked.uint32(), out)
	}
	return nil
}

// foretold begins a message that is not asked for yet.
func foretold(r *request, opcode uint32, node, file uint64, size int) *writer {
	w := newWriter(wire.ForetoldHead + size)
	w.uint32(opcode)
	w.uint32(0)
	w.uint64(node)
	w.uint64(file)
	return w
}

// ahead fills the header in.
func (w *writer) ahead(r *request) []byte {
	b := w.finish(r.unique, 0)
	binary.LittleEndian.PutUint32(b[4:], wire.Foretold)
	return b
}

func (s *Server) foretellFolder(r *request, number uint64) []byte {
	n := s.table.get(number)
	if n == nil || n.tree == nil {
		return nil
	}
	st, err := s.statOf(n)
	if err != nil {
		return nil
	}
	return s.foretellAttr(r, number, st)
}

func (s *Server) foretellAttr(r *request, number uint64, st stat) []byte {
	w := foretold(r, opGetattr, number, 0, 16+attrSize)
	w.attrAnswer(fresh, s.seen(st))
	return w.ahead(r)
}

func (s *Server) foretellWritten(r *request, file uint64) []byte {
	h := s.handle(file)
	if h == nil {
		return nil
	}
	defer h.unuse()
	st, err := statFD(h.fd)
	if err != nil || h.node.number != r.node {
		return nil
	}
	return s.foretellAttr(r, r.node, st)
}

// foretellContent sends a whole small file, unless the guest has its pages.
func (s *Server) foretellContent(r *request, flags uint32, out *writer) []byte {
	body := reader{rest: out.b[headerOut:]}
	file := body.uint64()
	if flags&openAccess == openWrite || flags&openTrunc != 0 {
		return nil
	}
	h := s.handle(file)
	if h == nil {
		return nil
	}
	defer h.unuse()
	if s.table.fetched(h.node, false) {
		return nil
	}
	content := make([]byte, maxForetold+1)
	n, err := peek(h.fd, content)
	if err != nil || n == 0 || n > maxForetold {
		return nil
	}
	s.table.fetched(h.node, true)
	w := foretold(r, opRead, r.node, file, n)
	w.bytes(content[:n])
	return w.ahead(r)
}
