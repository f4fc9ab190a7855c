package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	if !ok || machine.Card() == nil {
		return s.wantCapture(false)
	}
	if err := errors.Join(s.wantCapture(true), s.openNetworkLog()); err != nil {
		return err
	}
	config := netstack.Config{
		Policy: s.rec.Egress, Own: (&host.Addresses{Now: s.Now}).Own, Now: s.Now, Journal: s.journal,
		Resolvers: func() []netip.AddrPort { return host.Resolvers(host.ResolverFile) },
	}
	if s.capture != nil {
		config.Capture = s.capture
	}
	if s.escrow != nil {
		config.Intercept = s.escrow
	}
	network, err := netstack.New(machine.Card(), config)
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

// wantCapture begins the file for the traffic, if one is wanted. It never takes a
// file, or a link, that is there.
func (s *supervisor) wantCapture(card bool) (err error) {
	path := s.order.Capture
	if path == "" {
		return nil
	}
	if !card {
		return fault.New(fault.Usage, "Leave --record out.", "the sandbox has no network card whose traffic could be recorded")
	}
	s.capture, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fault.New(fault.Conflict, "Name a new file.", "record the sandbox's traffic: %s is there already", path)
	}
	if err != nil {
		return fault.New(fault.Storage, "", "record the sandbox's traffic: %w", err)
	}
	return nil
}

func (s *supervisor) openNetworkLog() (err error) {
	s.connections, err = openNetworkLog(s.folder.NetworkLog())
	return err
}

// journal writes a line of the connection log.
func (s *supervisor) journal(e netstack.Entry) {
	line, err := json.Marshal(e)
	if err != nil {
		s.log.Error("write the log of the network", "error", err)
		return
	}
	_, _ = s.connections.Write(append(line, '\n')) // never fails
}

// closeNetwork closes the files of the network. A start that came to nothing leaves
// no recording.
func (s *supervisor) closeNetwork(committed bool) error {
	if s.connections != nil {
		s.connections.close()
	}
	if s.capture == nil {
		return nil
	}
	err := s.capture.Close()
	if !committed {
		err = errors.Join(err, remove(s.capture.Name()))
	}
	return err
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
