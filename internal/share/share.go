// Package share serves folders and files of this computer to one sandbox as a
// FUSE file system: the guest's kernel asks, this package answers.
//
// Inputs are the mounts and the byte stream that the guest agent relays from
// /dev/fuse, on which each message starts with its own length; outputs are
// answers on the same stream, and changes of the mounted folders. The root is
// made up: it has one entry for each mount, named by its number, which the agent
// binds to where the guest wants it.
//
// The guest is not trusted. Each mount is confined to its folder: what a message
// names is opened below the folder's descriptor, without following any link, so
// that no link, rename or race leads out of it. Files belong to the user who runs
// SmolVM and appear as the guest's agent's. Device nodes and set-id files are
// refused, read-only mounts are read-only here. Messages, open files, known files
// and listings are bounded.
//
// Nothing is kept on disk but what the guest wrote, which is there as soon as it
// is answered: a crash loses what this computer's own programs would lose.
package share

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

// fresh is how long the guest may believe what it was told of names and
// attributes: changes made by this computer have to show within a second.
const fresh = wire.MountFresh

// Bounds on what a guest can make this computer hold.
const (
	maxHandles = 1 << 15 // open files, and no more than half of what this process may have
	maxNodes   = 1 << 22 // files it may remember
	maxListed  = 1 << 22 // entries of open listings
	workers    = 8       // requests that are answered at the same time
)

// Mount is a folder or file to serve.
type Mount struct {
	ID       string // the entry's name in the root
	Host     string // absolute path without links: a guest may have made those on the way
	ReadOnly bool
}

// Owner is the guest's user that this computer's user appears as.
type Owner struct{ UID, GID uint32 }

// Server serves the mounts of one sandbox.
type Server struct {
	owner Owner
	now   func() time.Time
	host  identity

	table *table
	scan  scan
	watch *watch // nil: nobody wants to know

	mu      sync.Mutex
	trees   map[string]*tree
	handles map[uint64]*handle
	devices map[uint64]uint64 // numbers of file systems
	most    int               // handles
	next    uint64            // the last handle's number
	listed  int               // entries held by open listings
}

// New makes a server without mounts. Files are shown as owned by owner.
func New(owner Owner, now func() time.Time) *Server {
	return &Server{
		owner: owner, now: now, host: self(), table: newTable(),
		trees: map[string]*tree{}, handles: map[uint64]*handle{}, devices: map[uint64]uint64{},
		most: mostHandles(),
	}
}

// Watched is how many folders are watched for changes of this computer, and whether
// there are more than can be; not ok where nothing is watched.
func (s *Server) Watched() (folders int, more, ok bool) {
	if s.watch == nil {
		return 0, false, false
	}
	folders, more = s.watch.count()
	return folders, more, true
}

// mostHandles leaves this process files to open for other work.
func mostHandles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxHandles
	}
	return int(min(limit.Cur/2, maxHandles))
}

// Add begins to serve a mount.
func (s *Server) Add(m Mount) error {
	if m.ID == "" || len(m.ID) > maxName || slices.Contains([]string{".", ".."}, m.ID) {
		return fmt.Errorf("serve %s: %q is no name", m.Host, m.ID)
	}
	t, err := openTree(m)
	if err != nil {
		return fault.New(fault.NotFound, "Name a folder or a file that is there and that you may read.",
			"mount %s: %w", m.Host, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trees[m.ID] != nil {
		return errors.Join(fmt.Errorf("serve %s: %q is served already", m.Host, m.ID), t.close())
	}
	s.trees[m.ID] = t
	return nil
}

// Remove ends a mount: from here on the guest gets errors for its files.
func (s *Server) Remove(id string) error {
	s.mu.Lock()
	t := s.trees[id]
	delete(s.trees, id)
	s.mu.Unlock()
	if t == nil {
		return fmt.Errorf("remove mount %q: there is none", id)
	}
	s.table.moving.Lock() // nothing uses the folder's descriptor now
	defer s.table.moving.Unlock()
	return t.close()
}

// Close ends all mounts and closes all files.
func (s *Server) Close() error {
	s.mu.Lock()
	trees, handles := s.trees, s.handles
	s.trees, s.handles = map[string]*tree{}, map[uint64]*handle{}
	s.listed = 0
	s.mu.Unlock()
	s.table.moving.Lock()
	defer s.table.moving.Unlock()
	var errs []error
	s.watch.close()
	for _, h := range handles {
		h.close()
	}
	for _, t := range trees {
		errs = append(errs, t.close())
	}
	return errors.Join(errs...)
}

// restart forgets what an earlier boot of the guest knew.
func (s *Server) restart() {
	s.watch.clear()
	s.mu.Lock()
	handles := s.handles
	s.handles, s.listed = map[uint64]*handle{}, 0
	s.mu.Unlock()
	for _, h := range handles {
		h.close()
	}
	s.table.reset()
}

// tree gives a mount by its entry's name, nil when there is none.
func (s *Server) tree(id string) *tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trees[id]
}
