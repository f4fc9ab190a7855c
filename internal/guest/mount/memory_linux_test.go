package mount

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// ask is a message of the kernel.
func ask(op uint32, unique, node uint64, body ...byte) []byte {
	b := make([]byte, headerIn, headerIn+len(body))
	binary.LittleEndian.PutUint32(b, uint32(headerIn+len(body)))
	binary.LittleEndian.PutUint32(b[4:], op)
	binary.LittleEndian.PutUint64(b[8:], unique)
	binary.LittleEndian.PutUint64(b[16:], node)
	return append(b, body...)
}

// ahead is a foretold answer.
func ahead(unique uint64, op uint32, node, file uint64, body []byte) []byte {
	b := reply(unique, 0, nil)
	binary.LittleEndian.PutUint32(b[4:], wire.Foretold)
	b = binary.LittleEndian.AppendUint64(b, uint64(op))
	b = binary.LittleEndian.AppendUint64(b, node)
	b = binary.LittleEndian.AppendUint64(b, file)
	return append(b, body...)
}

func readAt(file, offset uint64, size uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, file)
	b = binary.LittleEndian.AppendUint64(b, offset)
	return append(binary.LittleEndian.AppendUint32(b, size), make([]byte, 20)...)
}

// scene is a memory with a clock.
type scene struct {
	*memory
	now time.Time
}

func newScene() *scene {
	s := &scene{now: time.Unix(1000, 0)}
	s.memory = newMemory(func() time.Time { return s.now })
	return s
}

func (s *scene) knowsAttr(node uint64) bool {
	answer, _ := s.ask(ask(wire.FuseGetattr, 99, node, make([]byte, 16)...))
	if answer == nil {
		s.hear(reply(99, 0, nil))
	}
	return answer != nil
}

// create is a request that changes folder 5, answered with what it is like then.
func (s *scene) create() {
	s.ask(ask(opCreate, 7, 5))
	s.hear(ahead(7, wire.FuseGetattr, 5, 0, make([]byte, attrBody)))
	s.hear(reply(7, 0, nil))
}

func TestWhatNeedsNoHost(t *testing.T) {
	for _, c := range []struct {
		message []byte
		errno   int32
		to      way
	}{
		{ask(opIoctl, 1, 5), -25, keep},
		{ask(opGetxattr, 1, 5, append(make([]byte, 8), "security.capability\x00"...)...), -95, keep},
		{ask(opRelease, 1, 5), 0, late},
		{ask(opReleasedir, 1, 5), 0, late},
	} {
		answer, to := newScene().ask(c.message)
		if to != c.to || len(answer) != leastOut || int32(binary.LittleEndian.Uint32(answer[4:])) != c.errno || answer[8] != 1 {
			t.Errorf("% x: % x, %v", c.message, answer, to)
		}
	}
	for _, c := range []struct {
		message []byte
		to      way
	}{
		{ask(opForget, 1, 5), late},
		{ask(opInterrupt, 1, 5), keep},
		{ask(opLookup, 1, 5), send},
		{ask(opGetxattr, 1, 5, append(make([]byte, 8), "user.x\x00"...)...), send},
		{ask(opGetxattr, 1, 5), send},
		{ask(wire.FuseRead, 1, 5), send},
		{[]byte{1, 2}, send},
	} {
		if answer, to := newScene().ask(c.message); answer != nil || to != c.to {
			t.Errorf("% x: % x, %v", c.message, answer, to)
		}
	}
}

func TestAttributesAreBelievedForAWhile(t *testing.T) {
	s := newScene()
	s.create()
	s.now = s.now.Add(300 * time.Millisecond)
	answer, to := s.ask(ask(wire.FuseGetattr, 8, 5, make([]byte, 16)...))
	if to != keep || len(answer) != leastOut+attrBody || binary.LittleEndian.Uint64(answer[8:]) != 8 {
		t.Fatalf("% x, %v", answer, to)
	}
	if left := time.Duration(binary.LittleEndian.Uint32(answer[leastOut+8:])); left != wire.MountFresh-300*time.Millisecond {
		t.Errorf("believed for %v more", left)
	}
	s.now = s.now.Add(wire.MountFresh)
	if s.knowsAttr(5) {
		t.Error("believed too long")
	}
}

func TestChangesUnderWayAreNotForetold(t *testing.T) {
	s := newScene()
	s.create()
	s.ask(ask(opUnlink, 9, 6)) // may change any other node
	if s.knowsAttr(5) {
		t.Error("known although a name is being removed")
	}
	s.create()
	if s.knowsAttr(5) {
		t.Error("foretold while a name is being removed")
	}
	s.hear(reply(9, 0, nil))
	s.create()
	if !s.knowsAttr(5) {
		t.Error("not known although nothing changes it")
	}
	s.ask(ask(opWrite, 10, 6))
	if !s.knowsAttr(5) {
		t.Error("forgotten for another file's sake")
	}
	s.ask(ask(opSetattr, 11, 5))
	if s.knowsAttr(5) {
		t.Error("known although it is being changed")
	}
}

func TestContentIsReadWithoutTheHost(t *testing.T) {
	open := func() *scene {
		s := newScene()
		s.ask(ask(opOpen, 7, 5))
		s.hear(ahead(7, wire.FuseRead, 5, 3, []byte("content")))
		s.hear(reply(7, 0, nil))
		return s
	}
	part := func(s *scene, file, offset uint64, size uint32) string {
		answer, to := s.ask(ask(wire.FuseRead, 8, 5, readAt(file, offset, size)...))
		if to != keep {
			return "?"
		}
		return string(bytes.Clone(answer[leastOut:]))
	}
	for _, c := range []struct {
		file, offset uint64
		size         uint32
		want         string
	}{{3, 0, 4096, "content"}, {3, 3, 2, "te"}, {3, 7, 10, ""}, {3, 1 << 63, 10, ""}, {4, 0, 10, "?"}} {
		if got := part(open(), c.file, c.offset, c.size); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	entry := binary.LittleEndian.AppendUint64(nil, 5)
	for name, then := range map[string]func(*scene){
		"a write":            func(s *scene) { s.ask(ask(opWrite, 9, 5)) },
		"a removal":          func(s *scene) { s.ask(ask(opUnlink, 9, 1)) },
		"time":               func(s *scene) { s.now = s.now.Add(wire.MountFresh) },
		"newer attributes":   func(s *scene) { s.ask(ask(opSetattr, 9, 5)); s.hear(reply(9, 0, nil)) },
		"a newer entry":      func(s *scene) { s.ask(ask(opLookup, 9, 1)); s.hear(reply(9, 0, entry)) },
		"a newer listing":    func(s *scene) { s.ask(ask(opReaddirplus, 9, 1)); s.hear(reply(9, 0, nil)) },
		"further attributes": func(s *scene) { s.ask(ask(wire.FuseGetattr, 9, 5)); s.hear(reply(9, 0, nil)) },
	} {
		s := open()
		then(s)
		if got := part(s, 3, 0, 10); got != "?" {
			t.Errorf("after %s: %q", name, got)
		}
	}
}
