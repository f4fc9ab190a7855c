package supervise

import (
	"context"
	"net/netip"

	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/netstack"
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
