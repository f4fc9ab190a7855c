package supervise

import (
	"context"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// clockPeriod is how often a guest is told the time without a reason: its clock runs
// as evenly as the processor's counter, which is some seconds a day.
const clockPeriod = time.Hour

// keepClock tells the guest the time after this computer's clock jumped, because it
// was set or the computer slept, and every now and then. The guest leaves a clock
// alone that is right.
func (s *supervisor) keepClock(life context.Context) {
	jumped := make(chan struct{}, 1)
	s.running.Go(func() {
		s.Jumps(life, func() {
			select {
			case jumped <- struct{}{}:
			default: // one is told soon anyway
			}
		})
	})
	ticker := time.NewTicker(clockPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-jumped:
			s.log.Info("the clock of this computer jumped: the guest is told the time")
		case <-ticker.C:
		case <-life.Done():
			return
		}
		s.guest.tellTime()
	}
}

// tellTime tells a guest that is ready the time; one that boots is told when it is.
func (g *guest) tellTime() {
	state, _ := g.look()
	if state.link == nil {
		return
	}
	if err := state.link.Send(wire.Message{Type: wire.Clock, UnixNano: g.now().UnixNano()}); err != nil {
		g.log.Warn("set the guest's clock", "error", err)
	}
}
