package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/share"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// mounts serves the host's folders to the guest.
type mounts struct {
	server *share.Server
	list   []wire.Mount
	log    *slog.Logger
}

// openMounts opens the folders that the record names: one that is gone fails the
// start.
func openMounts(all []record.Mount, now func() time.Time, log *slog.Logger) (*mounts, error) {
	m := &mounts{server: share.New(share.Owner{UID: wire.AgentUID, GID: wire.AgentUID}, now), log: log}
	for i, r := range all {
		id := strconv.Itoa(i)
		if err := m.server.Add(share.Mount{ID: id, Host: r.Host, ReadOnly: r.ReadOnly}); err != nil {
			return nil, errors.Join(err, m.server.Close())
		}
		m.list = append(m.list, wire.Mount{ID: id, Target: r.Guest, File: r.File, ReadOnly: r.ReadOnly})
	}
	return m, nil
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

// tell sends the list to a guest that has just opened its link.
func (m *mounts) tell(link *guestlink.Link) {
	if m == nil || len(m.list) == 0 {
		return
	}
	if err := link.Send(wire.Message{Type: wire.Mounts, Mounts: m.list}); err != nil {
		m.log.Warn("tell the guest what to mount", "error", err)
	}
}

// option is for the kernel command line.
func (m *mounts) option() string {
	if len(m.list) == 0 {
		return ""
	}
	return fmt.Sprintf(" %s=%d", wire.OptMounts, len(m.list))
}
