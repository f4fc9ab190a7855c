package share

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// Bounds of a sandbox's watch.
const (
	maxWatches = 8192                   // folders
	maxNews    = 512                    // names that are looked at together
	settle     = 100 * time.Millisecond // during which changes are gathered
)

const watched = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

// watch tells of changes that others make in folders that the guest has listed
// and still knows: a guest's watchers have listed theirs. A nil watch does nothing.
type watch struct {
	server *Server
	events *os.File
	tell   func([]wire.Change)
	full   func() // called once, when there are more folders than can be watched

	mu      sync.Mutex
	folders map[int32]*node
	numbers map[*node]int32
	over    bool
	running sync.WaitGroup
}

// Watch begins to tell of changes by others than the guest. It is called once,
// before Serve; full is called when there are too many folders.
func (s *Server) Watch(tell func([]wire.Change), full func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch mounted folders: %w", err)
	}
	s.watch = &watch{
		server: s, events: os.NewFile(uintptr(fd), "inotify"), tell: tell, full: full,
		folders: map[int32]*node{}, numbers: map[*node]int32{},
	}
	s.watch.running.Go(s.watch.run)
	return nil
}

// close ends the watch and waits for it.
func (w *watch) close() {
	if w == nil {
		return
	}
	_ = w.events.Close()
	w.running.Wait()
}

// add watches an open folder.
func (w *watch) add(n *node, fd int) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.numbers[n]; there || w.over {
		return
	}
	number, err := -1, error(unix.ENOSPC)
	if len(w.folders) < maxWatches {
		number, err = w.control(func(events int) (int, error) {
			return unix.InotifyAddWatch(events, fmt.Sprintf("/proc/self/fd/%d", fd), watched)
		})
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
		w.over = true
		w.full()
	}
	if err != nil {
		return // it cannot be told of
	}
	w.folders[int32(number)], w.numbers[n] = n, int32(number)
}

// drop ends the watch of a node, if it is one.
func (w *watch) drop(n *node) {
	if w == nil || n == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(n)
}

func (w *watch) remove(n *node) {
	number, there := w.numbers[n]
	if !there {
		return
	}
	delete(w.numbers, n)
	if w.folders[number] == n { // a folder that two mounts have is watched once
		delete(w.folders, number)
		_, _ = w.control(func(events int) (int, error) { return unix.InotifyRmWatch(events, uint32(number)) })
	}
	w.over = false
}

// count is how many folders are watched, and whether there are more.
func (w *watch) count() (folders int, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.folders), w.over
}

// clear ends all.
func (w *watch) clear() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := range w.numbers {
		w.remove(n)
	}
}

// control uses the descriptor while it is open.
func (w *watch) control(f func(events int) (int, error)) (n int, err error) {
	raw, err := w.events.SyscallConn()
	if err != nil {
		return -1, err
	}
	if closed := raw.Control(func(fd uintptr) { n, err = f(int(fd)) }); closed != nil {
		return -1, closed
	}
	return n, err
}

// run gathers events for a while and tells what is news for the guest.
func (w *watch) run() {
	buf := make([]byte, 64<<10)
	news := map[place]bool{} // whether the content may have changed
	for {
		n, err := w.events.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.report(news)
			clear(news)
			_ = w.events.SetReadDeadline(time.Time{})
			continue
		case err != nil:
			return
		}
		if len(news) == 0 {
			_ = w.events.SetReadDeadline(time.Now().Add(settle))
		}
		w.gather(buf[:n], news)
	}
}

// gather takes events apart.
func (w *watch) gather(b []byte, news map[place]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(b) >= unix.SizeofInotifyEvent {
		number, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		length := int(binary.NativeEndian.Uint32(b[12:]))
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length], "\x00"))
		b = b[unix.SizeofInotifyEvent+length:]
		n := w.folders[number]
		if n != nil && mask&unix.IN_IGNORED != 0 { // the folder is gone
			delete(w.folders, number)
			delete(w.numbers, n)
		}
		if n == nil || name == "" || len(news) >= maxNews {
			continue
		}
		at := place{n, name}
		news[at] = news[at] || mask&unix.IN_MODIFY != 0
	}
}

// report looks at what has settled down.
func (w *watch) report(news map[place]bool) {
	var changes []wire.Change
	for at, written := range news {
		if c, is := w.server.newsOf(at, written); is {
			changes = append(changes, c)
		}
	}
	if len(changes) > 0 {
		w.tell(changes)
	}
}
