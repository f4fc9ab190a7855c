package supervise

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
)

// connect makes the sandbox's network, if its machine has a card that ends here.
func (s *supervisor) connect(life context.Context) error {
	machine, ok := s.machine.(vmm.Networked)
	if !ok {
		return nil
	}
	card := machine.Card()
	if card == nil {
		return nil
	}
	own := &host.Addresses{Now: s.Now}
	network, err := netstack.New(card, netstack.Config{
		Policy: s.rec.Egress, Own: own.Own, Now: s.Now,
		Resolvers: func() []netip.AddrPort { return host.Resolvers(host.ResolverFile) },
	})
	if err != nil {
		return err
	}
	s.network.Store(network)
	s.running.Go(func() {
		if err := network.Run(life); err != nil {
			s.log.Error("the sandbox's network ended", "error", err)
		}
	})
	return nil
}

// networkRequest asks the supervisor's main loop to change the policy, or only to
// tell; it answers once.
type networkRequest struct {
	change egress.Change
	answer chan<- networkAnswer
}

type networkAnswer struct {
	snapshot netstack.Snapshot
	err      error
}

// changeNetwork changes what the sandbox may reach. The record is written first: a
// crash never leaves open what was closed, and what cannot be written is not changed.
func (s *supervisor) changeNetwork(change egress.Change) (netstack.Snapshot, error) {
	network := s.network.Load()
	if network == nil {
		return netstack.Snapshot{}, fault.New(fault.Conflict, "", "sandbox %q has no network card", s.rec.Name)
	}
	if change.Changes() {
		err := s.change(func(r *record.Record) error {
			r.Egress = r.Egress.With(change)
			return nil
		})
		if err != nil {
			return netstack.Snapshot{}, err
		}
		network.SetPolicy(s.rec.Egress)
	}
	return network.Snapshot(), nil
}

// network passes a request on and answers with what goes on then.
func (s *server) network(conn *net.UnixConn, out *frameWriter, change egress.Change) error {
	answer := make(chan networkAnswer, 1)
	late := time.NewTimer(renameTimeout)
	defer late.Stop()
	select {
	case s.networks <- networkRequest{change, answer}:
	case <-s.over:
		return s.refuse(conn, out, errStopped)
	case <-late.C:
		return s.refuse(conn, out, fault.New(fault.Conflict, "Try again in a moment.", "the sandbox is just being started or stopped"))
	}
	got := <-answer
	if got.err != nil {
		return s.refuse(conn, out, got.err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return out.sendJSON(accepted, got.snapshot)
}

// Network changes what the running sandbox may reach, and tells what goes on.
func (c *Client) Network(ctx context.Context, change egress.Change) (netstack.Snapshot, error) {
	var snapshot netstack.Snapshot
	call, err := c.begin(ctx, request{Op: opNetwork, Network: &change})
	if err != nil {
		return snapshot, fmt.Errorf("change the sandbox's network: %w", err)
	}
	defer call.end()
	if err := json.Unmarshal(call.answer, &snapshot); err != nil {
		return snapshot, fmt.Errorf("decode the sandbox's network: %w", err)
	}
	return snapshot, nil
}
