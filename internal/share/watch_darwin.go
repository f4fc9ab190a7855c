package share

import "github.com/smolvm/smolvm/internal/wire"

// watch does nothing here: macOS tells of changes in a tree only to programs that
// are linked with its own libraries.
type watch struct{}

// Watch does nothing.
func (s *Server) Watch(func([]wire.Change), func()) error { return nil }

func (w *watch) count() (int, bool) { return 0, false }
func (w *watch) add(*node, int)     {}
func (w *watch) drop(*node)         {}
func (w *watch) clear()             {}
func (w *watch) close()             {}
