//go:build linux

package sshd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/wire"
)

// Bounds of what is kept.
const (
	maxEnded   = 16  // sessions that ended while nobody watched
	maxCommand = 160 // bytes of a command that are shown
)

// keeper holds the sessions that outlive their clients. Nothing but the end of
// their programs, or of the machine, ends them.
type keeper struct {
	now   func() time.Time
	dirty chan struct{} // of one place: the list has changed
	group sync.WaitGroup
	make  sync.Mutex // held from the choice of a name until it is taken

	mu       sync.Mutex
	sessions map[string]*kept
}

func newKeeper(now func() time.Time) *keeper {
	return &keeper{now: now, dirty: make(chan struct{}, 1), sessions: map[string]*kept{}}
}

// create keeps a program that runs on a terminal, which it takes over. What the program
// says waits in the terminal until run.
func (k *keeper) create(name string, p *running, terminal *pty) *kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := newKept(k, name, p, terminal)
	k.sessions[name] = s
	return s
}

// reserve checks that a new session may have the name, or finds one.
func (k *keeper) reserve(name string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.sessions) >= wire.MaxSessions {
		return "", fmt.Errorf("there are %d sessions already: end some", len(k.sessions))
	}
	if name == "" {
		for n := 1; ; n++ {
			name = strconv.Itoa(n)
			if _, taken := k.sessions[name]; !taken {
				return name, nil
			}
		}
	}
	if !wire.ValidSessionName(name) {
		return "", errors.New("a session's name is made of up to 32 letters, digits, hyphens, underscores and dots")
	}
	if _, taken := k.sessions[name]; taken {
		return "", fmt.Errorf("there is a session %s already", name)
	}
	return name, nil
}

func (k *keeper) find(name string) (*kept, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s, ok := k.sessions[name]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("there is no session %q", name)
}

// forget drops a session whose end has been seen.
func (k *keeper) forget(s *kept) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sessions[s.name] == s {
		delete(k.sessions, s.name)
	}
}

// bury keeps what is left of a session that ended unseen, and drops the oldest of
// those where there are too many.
func (k *keeper) bury() {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ended []*kept
	for _, s := range k.sessions {
		if s.hasEnded() {
			ended = append(ended, s)
		}
	}
	slices.SortFunc(ended, func(a, b *kept) int { return a.lastUse().Compare(b.lastUse()) })
	for len(ended) > maxEnded {
		delete(k.sessions, ended[0].name)
		ended = ended[1:]
	}
}

// changed says that the list is another one.
func (k *keeper) changed() {
	select {
	case k.dirty <- struct{}{}:
	default:
	}
}

// list is what there is, the oldest first.
func (k *keeper) list() []wire.KeptSession {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]wire.KeptSession, 0, len(k.sessions))
	for _, s := range k.sessions {
		all = append(all, s.describe())
	}
	slices.SortFunc(all, func(a, b wire.KeptSession) int {
		return cmp.Or(cmp.Compare(a.Started, b.Started), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// Tell calls f with the kept sessions whenever they change, until ctx ends.
func (s *Server) Tell(ctx context.Context, f func([]wire.KeptSession)) {
	for {
		select {
		case <-s.keeper.dirty:
			f(s.keeper.list())
		case <-ctx.Done():
			return
		}
	}
}

// commandLine is a command for people, cut.
func commandLine(argv []string) string {
	text := strings.ToValidUTF8(strings.Join(argv, " "), "?")
	if len(text) > maxCommand {
		text = strings.ToValidUTF8(text[:maxCommand], "") + "..."
	}
	return text
}

// keep starts the program of a session that outlives this channel, or joins one.
func (s *session) keep() error {
	if s.start.New {
		return s.keepNew()
	}
	found, err := s.keeper.find(s.start.Session)
	if err != nil {
		return err
	}
	size := s.pty.size
	s.pty.close()
	s.pty = nil
	s.watch(newViewer(found, s.channel, size, false))
	return nil
}

func (s *session) keepNew() error {
	s.keeper.make.Lock()
	defer s.keeper.make.Unlock()
	name, err := s.keeper.reserve(s.start.Session)
	if err != nil {
		return err
	}
	if err := s.startOnTerminal(); err != nil {
		return err
	}
	size := s.pty.size
	created := s.keeper.create(name, s.program, s.pty)
	s.pty = nil // the session's
	s.watch(newViewer(created, s.channel, size, true))
	s.keeper.group.Go(created.run) // not before: its first words are for this client
	return nil
}

// watch makes this channel one of a session's clients.
func (s *session) watch(v *viewer) {
	s.viewer = v
	v.session.join(v)
	s.group.Go(v.receive)
	s.group.Go(func() {
		if status, ended := v.send(); ended {
			sendStatus(s.channel, status)
		}
		v.leave()
		s.channel.Close()
	})
}

// exitCode is a status as one number.
func exitCode(status reap.Status) *int {
	code := status.Code()
	return &code
}
