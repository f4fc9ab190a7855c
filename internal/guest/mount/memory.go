package mount

import (
	"bytes"
	"encoding/binary"
	"maps"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// The kernel's operations that the relay knows; all others it only passes on.
const (
	opLookup       = 1
	opForget       = 2
	opSetattr      = 4
	opSymlink      = 6
	opMknod        = 8
	opMkdir        = 9
	opUnlink       = 10
	opRmdir        = 11
	opRename       = 12
	opLink         = 13
	opOpen         = 14
	opWrite        = 16
	opRelease      = 18
	opSetxattr     = 21
	opGetxattr     = 22
	opRemovexattr  = 24
	opReleasedir   = 29
	opCreate       = 35
	opInterrupt    = 36
	opIoctl        = 39
	opBatchForget  = 42
	opFallocate    = 43
	opReaddirplus  = 44
	opRename2      = 45
	opCopyRange    = 47
	headerIn       = 40
	leastOut       = 16 // the header of an answer alone
	userAttributes = "user."
)

// way is what becomes of a message of the kernel.
type way int

const (
	send way = iota // to the host, at once
	late            // to the host, with the next
	keep            // nowhere
)

// Bounds on what is remembered.
const (
	maxForetold = 1024
	maxContents = 16
)

// memory answers for the host what needs no host: what no mount supports, ends of
// open files, and what the host has foretold. It may be used by the goroutine
// that reads the kernel's messages and by the one that reads the host's.
type memory struct {
	now func() time.Time

	mu       sync.Mutex
	asked    map[uint64]question // what the host has not answered yet
	attrs    map[uint64]foretold // by node
	contents map[uint64]foretold // by open file
	entries  entries
}

// question is a request that was passed on.
type question struct {
	op   uint32
	node uint64
}

// foretold is an answer's body ahead of its request.
type foretold struct {
	node  uint64
	until time.Time
	body  []byte
}

func newMemory(now func() time.Time) *memory {
	return &memory{
		now: now, asked: map[uint64]question{}, attrs: map[uint64]foretold{}, contents: map[uint64]foretold{},
		entries: newEntries(),
	}
}

// ask looks at a message of the kernel. An answer is the relay's own.
func (m *memory) ask(message []byte) (answer []byte, to way) {
	if len(message) < headerIn {
		return nil, send
	}
	op, unique := binary.LittleEndian.Uint32(message[4:]), binary.LittleEndian.Uint64(message[8:])
	node, body := binary.LittleEndian.Uint64(message[16:]), message[headerIn:]
	switch op {
	case opForget, opBatchForget:
		return nil, late
	case opInterrupt:
		return nil, keep // nothing at the host waits for anything but the disk
	case opRelease, opReleasedir:
		return reply(unique, 0, nil), late // whoever has closed the file does not wait either
	case opIoctl:
		return reply(unique, syscall.ENOTTY, nil), keep
	case opGetxattr:
		if len(body) > 8 && !bytes.HasPrefix(body[8:], []byte(userAttributes)) {
			return reply(unique, syscall.EOPNOTSUPP, nil), keep
		}
	case opLookup:
		if answer := m.find(unique, child{node, string(bytes.TrimRight(body, "\x00"))}); answer != nil {
			return answer, keep
		}
	case wire.FuseGetattr, wire.FuseRead:
		if answer := m.recall(op, unique, node, body); answer != nil {
			return answer, keep
		}
	}
	m.note(unique, question{op, node})
	return nil, send
}

// reply is an answer of the relay's own.
func reply(unique uint64, errno syscall.Errno, body []byte) []byte {
	answer := make([]byte, leastOut, leastOut+len(body))
	binary.LittleEndian.PutUint32(answer, uint32(leastOut+len(body)))
	binary.LittleEndian.PutUint32(answer[4:], -uint32(errno))
	binary.LittleEndian.PutUint64(answer[8:], unique)
	return append(answer, body...)
}

// changes says whether a request changes a file's attributes, and whether it may
// change more than those of the node that it is about.
func (q question) changes() (some, others bool) {
	switch q.op {
	case opSetattr, opSymlink, opMknod, opMkdir, opCreate, opWrite, opSetxattr, opRemovexattr, opFallocate, opOpen:
		return true, false
	case opUnlink, opRmdir, opRename, opRename2, opLink, opCopyRange:
		return true, true
	}
	return false, false
}

// note remembers a request that the host gets, and forgets what it changes.
func (m *memory) note(unique uint64, q question) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked[unique] = q
	some, others := q.changes()
	switch {
	case q.op == opUnlink, q.op == opLink: // changes a folder, and a file that is none
		maps.DeleteFunc(m.attrs, func(node uint64, f foretold) bool { return node == q.node || !isFolder(f.body[16:]) })
		clear(m.contents)
		m.entries.drop(func(e entry) bool { return e.parent == q.node || !isFolder(e.body[40:]) })
	case others:
		clear(m.attrs)
		clear(m.contents)
		m.entries.drop(func(entry) bool { return true })
	case some:
		delete(m.attrs, q.node)
		m.forgetContents(q.node)
		m.entries.changed(q.node)
	}
}

func (m *memory) forgetContents(node uint64) {
	for file, f := range m.contents {
		if f.node == node {
			delete(m.contents, file)
		}
	}
}

// recall gives what the host has foretold of a request.
func (m *memory) recall(op uint32, unique, node uint64, body []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if op == wire.FuseGetattr {
		f, known := m.attrs[node]
		left := f.until.Sub(m.now())
		if !known || left <= 0 {
			return nil
		}
		binary.LittleEndian.PutUint64(f.body, 0)
		binary.LittleEndian.PutUint32(f.body[8:], uint32(left)) // less than a second
		return reply(unique, 0, f.body)
	}
	if len(body) < 20 {
		return nil
	}
	file, offset := binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:])
	f, known := m.contents[file]
	if !known || f.node != node || !m.now().Before(f.until) {
		return nil
	}
	part := f.body[min(offset, uint64(len(f.body))):]
	size := binary.LittleEndian.Uint32(body[16:])
	return reply(unique, 0, part[:min(int64(size), int64(len(part)))])
}

// hear looks at a message of the host; true when it is not for the kernel.
func (m *memory) hear(message []byte) bool {
	code, unique := binary.LittleEndian.Uint32(message[4:]), binary.LittleEndian.Uint64(message[8:])
	m.mu.Lock()
	defer m.mu.Unlock()
	if code == wire.Foretold {
		m.learn(unique, message[leastOut:])
		return true
	}
	q := m.asked[unique]
	delete(m.asked, unique)
	switch { // these tell the kernel what a file is like now: older contents must not come after
	case q.op == opReaddirplus:
		clear(m.contents)
	case (q.op == opLookup || q.op == opLink) && len(message) >= leastOut+8:
		m.forgetContents(binary.LittleEndian.Uint64(message[leastOut:]))
	case q.op == wire.FuseGetattr, q.op == opSetattr:
		m.forgetContents(q.node)
	}
	return false
}

// changing says whether another request that is under way may change a node.
func (m *memory) changing(unique, node uint64) bool {
	for other, q := range m.asked {
		if some, others := q.changes(); other != unique && some && (others || q.node == node) {
			return true
		}
	}
	return false
}

// isFolder looks at attributes.
func isFolder(attr []byte) bool {
	return binary.LittleEndian.Uint32(attr[60:])&syscall.S_IFMT == syscall.S_IFDIR
}

// attrBody is the length of a getattr's answer.
const attrBody = 16 + 88

// learn takes what the host foretells with an answer, unless something else that
// is under way changes it.
func (m *memory) learn(unique uint64, b []byte) {
	if len(b) < wire.ForetoldHead {
		return
	}
	op, node, file := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	if op == opLookup {
		m.learnEntry(unique, node, b[wire.ForetoldHead:])
		return
	}
	if m.changing(unique, node) {
		return
	}
	f := foretold{node: node, until: m.now().Add(wire.MountFresh), body: bytes.Clone(b[wire.ForetoldHead:])}
	switch {
	case op == wire.FuseGetattr && len(f.body) == attrBody:
		if len(m.attrs) >= maxForetold {
			clear(m.attrs)
		}
		m.attrs[node] = f
	case op == wire.FuseRead:
		if len(m.contents) >= maxContents {
			clear(m.contents)
		}
		m.contents[file] = f
	}
}
