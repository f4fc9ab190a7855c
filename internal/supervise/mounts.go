package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/share"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// mounts serves the host's folders to the guest.
type mounts struct {
	server *share.Server
	log    *slog.Logger

	news func(wire.Message) // to the guest; set before serve

	mu     sync.Mutex
	list   []wire.Mount
	serial int64 // of list
	last   int   // the last mount's number
}

// openMounts opens the folders that the record names: one that is gone fails the
// start.
func openMounts(all []record.Mount, now func() time.Time, log *slog.Logger) (*mounts, error) {
	m := &mounts{server: share.New(share.Owner{UID: wire.AgentUID, GID: wire.AgentUID}, now), log: log}
	list, err := m.with(nil, all)
	if err != nil {
		return nil, errors.Join(err, m.server.Close())
	}
	m.set(list)
	if err := m.server.Watch(m.changed, m.tooMany); err != nil {
		log.Warn("changes of this computer will not wake watchers in the sandbox", "error", err)
	}
	return m, nil
}

// with opens the folders of all, as far as they are not in the list before, and
// gives the list of all.
func (m *mounts) with(before []wire.Mount, all []record.Mount) (list []wire.Mount, err error) {
	for _, r := range all {
		there := slices.IndexFunc(before, func(w wire.Mount) bool { return w.Target == r.Guest })
		if there >= 0 {
			list = append(list, before[there])
			continue
		}
		m.last++
		id := strconv.Itoa(m.last)
		if err := m.server.Add(share.Mount{ID: id, Host: r.Host, ReadOnly: r.ReadOnly}); err != nil {
			m.without(list, before)
			return nil, &mountFailure{r.Guest, err}
		}
		list = append(list, wire.Mount{ID: id, Target: r.Guest, File: r.File, ReadOnly: r.ReadOnly})
	}
	return list, nil
}

// mountFailure is why a folder cannot be opened, and where it was to be seen.
type mountFailure struct {
	guest string
	error
}

func (f *mountFailure) Unwrap() error { return f.error }

// explainMount says what to do about a folder that was there when the sandbox was
// made: nothing else can be named then.
func (s *supervisor) explainMount(err error) error {
	var f *mountFailure
	if !errors.As(err, &f) || s.rec.State == record.Creating {
		return err
	}
	hint := fmt.Sprintf("Bring it back, or do without it: smolvm mount remove %s %s", s.Name, f.guest)
	return fault.New(fault.CodeOf(err), hint, "%w", err)
}

// without ends those mounts of a list that are not in another.
func (m *mounts) without(list, left []wire.Mount) {
	for _, w := range list {
		if slices.Contains(left, w) {
			continue
		}
		if err := m.server.Remove(w.ID); err != nil {
			m.log.Warn("end a mount", "error", err)
		}
	}
}

// set makes a list the one that guests are told; it gives its number.
func (m *mounts) set(list []wire.Mount) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = list
	m.serial++
	return m.serial
}

func (m *mounts) current() []wire.Mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list
}

// serve answers one boot of the guest after another until the machine or ctx ends.
func (m *mounts) serve(ctx context.Context, machine vmm.Machine) {
	for ctx.Err() == nil {
		conn, err := machine.Share(ctx)
		if err != nil {
			return
		}
		raw, err := guestlink.OpenRaw(ctx, conn, share.FirstBytes())
		if err != nil {
			m.log.Warn("serve mounts", "error", err)
			continue
		}
		stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
		if err := m.server.Serve(raw); err != nil && ctx.Err() == nil {
			m.log.Warn("serve mounts", "error", err)
		}
		stop()
		_ = raw.Close()
	}
}

// maxChanges bounds the paths in one message to the guest in bytes.
const maxChanges = 24 << 10

// changed tells the guest what others have changed.
func (m *mounts) changed(all []wire.Change) {
	size, part := 0, all[:0]
	for _, c := range all {
		if size += 128 + 2*len(c.Folder) + 2*len(c.Name); size > maxChanges {
			m.news(wire.Message{Type: wire.Changed, Changes: part})
			size, part = 0, nil
		}
		part = append(part, c)
	}
	m.news(wire.Message{Type: wire.Changed, Changes: part})
}

func (m *mounts) tooMany() {
	m.log.Warn("too many folders to watch: let watchers in the sandbox poll",
		"see", "fs.inotify.max_user_watches of this computer")
}

// watch is how changes of this computer are told.
func (m *mounts) watch() *Watch {
	if m == nil || len(m.current()) == 0 {
		return nil
	}
	folders, more, ok := m.server.Watched()
	if !ok {
		return nil
	}
	return &Watch{Folders: folders, More: more}
}

// tell sends the list to a guest that has just opened its link, or that has to
// change its mounts.
func (m *mounts) tell(link *guestlink.Link) {
	if m == nil || link == nil {
		return
	}
	m.mu.Lock()
	message := wire.Message{Type: wire.Mounts, Mounts: m.list, Serial: m.serial}
	m.mu.Unlock()
	if len(message.Mounts) == 0 && message.Serial == 1 {
		return // there never were any
	}
	if err := link.Send(message); err != nil {
		m.log.Warn("tell the guest what to mount", "error", err)
	}
}

// renewal is the message of tell to a guest that begins its mounts anew.
func (m *mounts) renewal() wire.Message {
	message := wire.Message{Type: wire.Renew}
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		message.Mounts, message.Serial = m.list, m.serial
	}
	return message
}

// option is for the kernel command line.
func (m *mounts) option() string {
	list := m.current()
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf(" %s=%d", wire.OptMounts, len(list))
}
