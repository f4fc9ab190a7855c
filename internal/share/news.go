package share

import (
	"errors"
	"syscall"

	"github.com/smolvm/smolvm/internal/wire"
)

// newsOf says what the guest does not know yet of a name in a folder where
// something happened: false when it does, because it has done that itself. written
// says that the content may be another one.
func (s *Server) newsOf(at place, written bool) (change wire.Change, news bool) {
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	tree := at.parent.tree
	if tree.gone.Load() {
		return change, false
	}
	p, err := s.within(at.parent, at.name)
	if err != nil {
		return change, false
	}
	defer p.close()
	st, err := statAt(p.dir, p.name)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return change, false
	}
	n, fresh := s.table.known(at, st.version())
	change = wire.Change{ID: tree.ID, Name: []byte(at.name), Parent: at.parent.number, Gone: err != nil}
	switch {
	case change.Gone:
		news = n != nil
	case n != nil && n.id == st.id:
		change.Node = n.number
		news = fresh && written && st.id.kind == typeRegular
	default:
		news = true
	}
	if at.parent.id.kind == mountKind || !news {
		return change, news
	}
	folder, there := s.table.placeOf(at.parent)
	change.Folder = []byte(folder)
	return change, there
}

// placeOf is a folder's path below its mount.
func (t *table) placeOf(n *node) (string, bool) {
	places := t.placesOf(n)
	if len(places) == 0 {
		return "", false
	}
	return t.pathOf(places[0])
}
