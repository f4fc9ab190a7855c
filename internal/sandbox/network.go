package sandbox

import (
	"context"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/record"
)

// Network changes what a sandbox may reach, at once where it runs, and from its
// next start on where it does not. It gives the policy that holds then, and of a
// running sandbox what goes on.
func (m *Manager) Network(ctx context.Context, name string, change egress.Change) (netstack.Snapshot, error) {
	c, err := m.Connect(ctx, name)
	if err == nil {
		defer c.Close()
		return c.Network(ctx, change)
	}
	if fault.CodeOf(err) != fault.NotRunning {
		return netstack.Snapshot{}, err
	}
	if !change.Changes() {
		r, err := m.Book.Read(name)
		return netstack.Snapshot{Policy: r.Egress}, err
	}
	r, err := m.change(name, "change the network of", func(r *record.Record) error {
		if !r.Network {
			return fault.New(fault.Conflict, "", "it has no network card")
		}
		r.Egress = r.Egress.With(change)
		return nil
	})
	return netstack.Snapshot{Policy: r.Egress}, err
}
