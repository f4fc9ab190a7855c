package supervise

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
)

// A guest that starts so often in so long is switched off: nothing runs in it, and
// it costs this computer a processor.
const (
	maxRestarts   = 6
	restartWindow = 3 * time.Minute
)

// maxWatched is how much of a console's line is looked at in bytes.
const maxWatched = 512

// troubles finds out what goes wrong in a guest: from the lines of its console, to
// which it is a writer, from its boots, and from what its agent says of the disk. A
// guest may say what it likes: it only speaks of itself, one entry of each kind is
// kept, and the record is written when a kind is new.
type troubles struct {
	now  func() time.Time
	news chan struct{} // gets a value when a kind came or went
	loop chan struct{} // closed when the guest has started too often

	mu       sync.Mutex
	all      map[record.TroubleKind]record.Trouble
	line     []byte // of the console, as far as it has come
	boots    int
	linked   bool // the guest opened its link since it started
	restarts []time.Time
	looped   bool
}

func newTroubles(now func() time.Time) *troubles {
	return &troubles{now: now, news: make(chan struct{}, 1), loop: make(chan struct{}), all: map[record.TroubleKind]record.Trouble{}}
}

// Write looks at a piece of the console. It never fails.
func (t *troubles) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := p; len(rest) > 0; {
		piece, after, ends := bytes.Cut(rest, []byte("\n"))
		rest = after
		t.line = append(t.line, piece[:min(len(piece), maxWatched-len(t.line))]...)
		if ends {
			t.look(t.line)
			t.line = t.line[:0]
		}
	}
	return len(p), nil
}

// look judges a whole line. The words are the kernel's.
func (t *troubles) look(line []byte) {
	for _, tell := range []struct {
		words string
		kind  record.TroubleKind
	}{
		{"Kernel panic - not syncing", record.Panic},
		{"ut of memory: Killed process", record.OutOfMemory}, // also of a control group
		{"I/O error, dev vd", record.DiskError},
	} {
		if bytes.Contains(line, []byte(tell.words)) {
			t.add(tell.kind, string(line))
			if tell.kind == record.Panic {
				t.started(false)
			}
			return
		}
	}
}

// add counts a trouble.
func (t *troubles) add(kind record.TroubleKind, line string) {
	known, there := t.all[kind]
	t.all[kind] = record.Trouble{Kind: kind, Line: shown(line), Count: known.Count + 1, Last: t.now().UTC()}
	if !there {
		t.tell()
	}
}

func (t *troubles) tell() {
	select {
	case t.news <- struct{}{}:
	default: // whoever takes it looks at all
	}
}

// opened says that the guest has opened its link: it started.
func (t *troubles) opened() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.boots++; t.boots > 1 {
		t.started(true)
		delete(t.all, record.DiskFull) // this boot has not said so
	}
	t.linked = true
}

// resumed says that the guest has opened its link again without a start: it was kept,
// or runs on from a snapshot.
func (t *troubles) resumed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.boots, t.linked = max(t.boots, 1), true
}

// started counts the starts of a guest after the first: each opens the link, or
// ends in a panic before it could.
func (t *troubles) started(link bool) {
	counts := link || !t.linked
	t.linked = link
	if !counts || t.looped {
		return
	}
	now := t.now()
	t.restarts = slices.DeleteFunc(t.restarts, func(at time.Time) bool { return now.Sub(at) > restartWindow })
	t.restarts = append(t.restarts, now)
	if len(t.restarts) < maxRestarts {
		return
	}
	t.looped = true
	line := "it started over and over"
	if p, there := t.all[record.Panic]; there {
		line = p.Line
	}
	t.add(record.Reboots, line)
	close(t.loop)
}

// disk takes over what the guest says of its disk: a line, or nothing when it has
// room.
func (t *troubles) disk(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, full := t.all[record.DiskFull]
	switch {
	case line != "" && !full:
		t.add(record.DiskFull, line)
	case line == "" && full:
		delete(t.all, record.DiskFull)
		t.tell()
	}
}

// list gives all of them, the worst first.
func (t *troubles) list() []record.Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []record.Trouble
	for _, kind := range record.TroubleKinds() {
		if found, there := t.all[kind]; there {
			all = append(all, found)
		}
	}
	return all
}

// err is why a guest that started too often was switched off.
func (t *troubles) err() error {
	line := t.list()[0].Line
	return fault.New(fault.Boot, "See smolvm logs for its console.",
		"its guest started %d times within %v and was switched off: %s", maxRestarts, restartWindow, line)
}

// note writes them into the record.
func (s *supervisor) note() {
	err := s.change(func(r *record.Record) error {
		r.Troubles = s.troubles.list()
		return nil
	})
	if err != nil {
		s.log.Warn("record what went wrong in the guest", "error", err)
	}
}
