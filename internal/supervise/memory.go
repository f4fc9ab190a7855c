package supervise

import (
	"context"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// Memory is what the guest does with its memory, in bytes.
type Memory struct {
	Used     int64 `json:"used_bytes"`     // by its programs, its kernel and its caches
	Returned int64 `json:"returned_bytes"` // by the balloon: this computer has it
}

// memoryTime is how long a question about the memory may take.
const memoryTime = 500 * time.Millisecond

// memory is what the guest does with its memory now. It is called by the server's
// goroutines.
func (s *supervisor) memory() *Memory {
	machine := s.metered.Load()
	if machine == nil {
		return nil
	}
	return memory(*machine)
}

// memory asks the machine; nil where its monitor does not know, or not yet.
func memory(machine vmm.Machine) *Memory {
	meter, ok := machine.(vmm.Meter)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), memoryTime)
	defer cancel()
	m, err := meter.Memory(ctx)
	if err != nil || m.Used == 0 {
		return nil
	}
	return &Memory{Used: m.Used, Returned: m.Returned}
}

// inform hands on what the guest says of its memory.
func (g *guest) inform(use *wire.MemoryUse) {
	if g.informed != nil && use != nil {
		g.informed.Inform(use.Total, use.Free)
	}
}
