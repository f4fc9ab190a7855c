package mount

import (
	"encoding/binary"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// child is a name in a folder.
type child struct {
	parent uint64
	name   string
}

// entry is a lookup's answer that the host has foretold. The host counts it as
// told: one that is dropped has to be given back.
type entry struct {
	child
	node  uint64
	until time.Time
	body  []byte
}

// entryBody is the length of a lookup's answer.
const entryBody = 40 + 88

// entries are foretold lookups.
type entries struct {
	named map[child]entry
	nodes map[uint64]child // the one that was told last of each node
	back  []uint64         // nodes to be given back
}

func newEntries() entries {
	return entries{named: map[child]entry{}, nodes: map[uint64]child{}}
}

// drop gives entries back.
func (e *entries) drop(which func(entry) bool) {
	for _, one := range e.named {
		if which(one) {
			e.back = append(e.back, one.node)
			e.remove(one)
		}
	}
}

func (e *entries) remove(one entry) {
	delete(e.named, one.child)
	if e.nodes[one.node] == one.child {
		delete(e.nodes, one.node)
	}
}

// changed drops what a change of a node makes wrong: its own attributes, and what
// is in it.
func (e *entries) changed(node uint64) {
	if len(e.named) == 0 {
		return
	}
	if _, own := e.nodes[node]; own {
		e.drop(func(one entry) bool { return one.node == node || one.parent == node })
		return
	}
	e.drop(func(one entry) bool { return one.parent == node })
}

// learnEntry takes a foretold lookup, or gives it back.
func (m *memory) learnEntry(unique, parent uint64, b []byte) {
	if len(b) <= entryBody {
		return
	}
	now := m.now()
	one := entry{
		child: child{parent, string(b[entryBody:])}, node: binary.LittleEndian.Uint64(b),
		until: now.Add(wire.MountFresh), body: append([]byte(nil), b[:entryBody]...),
	}
	if len(m.entries.named) >= maxForetold {
		m.entries.drop(func(old entry) bool { return !now.Before(old.until) })
	}
	_, twice := m.entries.named[one.child]
	if twice || len(m.entries.named) >= maxForetold || m.changing(unique, parent) || m.changing(unique, one.node) {
		m.entries.back = append(m.entries.back, one.node)
		return
	}
	m.entries.named[one.child], m.entries.nodes[one.node] = one, one.child
}

// find answers a lookup, once.
func (m *memory) find(unique uint64, at child) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	one, known := m.entries.named[at]
	if !known {
		return nil
	}
	m.entries.remove(one)
	left := one.until.Sub(m.now())
	if left <= 0 {
		m.entries.back = append(m.entries.back, one.node)
		return nil
	}
	for _, validity := range []int{16, 24} { // of the name and of the attributes
		binary.LittleEndian.PutUint64(one.body[validity:], 0)
	}
	binary.LittleEndian.PutUint32(one.body[32:], uint32(left))
	binary.LittleEndian.PutUint32(one.body[36:], uint32(left))
	m.forgetContents(one.node)
	return reply(unique, 0, one.body)
}

// givenBack is a message for the host about the entries that nobody wanted; nil
// when there are none.
func (m *memory) givenBack() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries.back) == 0 {
		return nil
	}
	b := make([]byte, headerIn, headerIn+8+16*len(m.entries.back))
	binary.LittleEndian.PutUint32(b, uint32(cap(b)))
	binary.LittleEndian.PutUint32(b[4:], opBatchForget)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(m.entries.back)))
	for _, node := range m.entries.back {
		b = binary.LittleEndian.AppendUint64(b, node)
		b = binary.LittleEndian.AppendUint64(b, 1)
	}
	m.entries.back = m.entries.back[:0]
	return b
}
