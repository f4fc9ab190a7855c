package mount

import (
	"encoding/binary"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// lookedUp is a lookup's answer.
func lookedUp(node uint64, mode uint32) []byte {
	b := make([]byte, entryBody)
	binary.LittleEndian.PutUint64(b, node)
	binary.LittleEndian.PutUint32(b[40+60:], mode)
	return b
}

func (s *scene) foretellName(parent, node uint64, name string, mode uint32) {
	s.hear(ahead(7, opLookup, parent, 0, append(lookedUp(node, mode), name...)))
}

// finds looks a name up.
func (s *scene) finds(parent uint64, name string) bool {
	answer, _ := s.ask(ask(opLookup, 99, parent, append([]byte(name), 0)...))
	if answer == nil {
		s.hear(reply(99, 0, lookedUp(0, 0)))
	}
	return answer != nil
}

func TestNamesAreFoundWithoutTheHost(t *testing.T) {
	s := newScene()
	s.foretellName(1, 5, "file", syscall.S_IFREG)
	s.now = s.now.Add(time.Millisecond)
	answer, to := s.ask(ask(opLookup, 8, 1, []byte("file\x00")...))
	if to != keep || len(answer) != leastOut+entryBody || binary.LittleEndian.Uint64(answer[leastOut:]) != 5 {
		t.Fatalf("% x, %v", answer, to)
	}
	for _, at := range []int{32, 36} {
		if left := time.Duration(binary.LittleEndian.Uint32(answer[leastOut+at:])); left != wire.MountFresh-time.Millisecond {
			t.Errorf("believed for %v", left)
		}
	}
	if s.finds(1, "file") {
		t.Error("found twice: the host counts each time")
	}
	if back := s.givenBack(); back != nil {
		t.Errorf("given back: % x", back)
	}
}

func TestNamesThatChangeAreGivenBack(t *testing.T) {
	for name, c := range map[string]struct {
		then func(*scene)
		left bool
	}{
		"nothing":              {func(*scene) {}, true},
		"a new name beside it": {func(s *scene) { s.ask(ask(opCreate, 9, 1)) }, false},
		"a write to it":        {func(s *scene) { s.ask(ask(opWrite, 9, 5)) }, false},
		"a write to another":   {func(s *scene) { s.ask(ask(opWrite, 9, 6)) }, true},
		"a removal":            {func(s *scene) { s.ask(ask(opUnlink, 9, 2)) }, false},
		"a rename":             {func(s *scene) { s.ask(ask(opRename2, 9, 2)) }, false},
		"time":                 {func(s *scene) { s.now = s.now.Add(wire.MountFresh) }, false},
		"a name under way":     {func(s *scene) { s.foretellName(1, 5, "file", syscall.S_IFREG) }, true},
	} {
		s := newScene()
		s.foretellName(1, 5, "file", syscall.S_IFREG)
		c.then(s)
		if s.finds(1, "file") != c.left {
			t.Errorf("after %s: left %v", name, !c.left)
		}
		if back := s.givenBack(); (back == nil) != (c.left && name != "a name under way") {
			t.Errorf("after %s: given back % x", name, back)
		}
	}
}

func TestWhatIsGivenBack(t *testing.T) {
	s := newScene()
	s.ask(ask(opWrite, 9, 5)) // under way
	s.foretellName(1, 5, "a", syscall.S_IFREG)
	s.foretellName(1, 6, "b", syscall.S_IFDIR)
	back := s.givenBack()
	if len(back) != headerIn+8+16 || binary.LittleEndian.Uint32(back) != uint32(len(back)) ||
		binary.LittleEndian.Uint32(back[4:]) != opBatchForget || binary.LittleEndian.Uint64(back[headerIn+8:]) != 5 {
		t.Errorf("% x", back)
	}
	for i := range uint64(2 * maxForetold) {
		s.foretellName(2, 10+i, string(rune('a'+i)), syscall.S_IFREG)
	}
	if n := len(s.entries.named); n > maxForetold {
		t.Errorf("%d remembered", n)
	}
	if back := s.givenBack(); len(back) != headerIn+8+16*(maxForetold+1) {
		t.Errorf("%d bytes given back", len(back))
	}
	if !s.finds(1, "b") {
		t.Error("not found")
	}
}
