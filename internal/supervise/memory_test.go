package supervise

import (
	"context"
	"errors"
	"testing"

	"github.com/smolvm/smolvm/internal/vmm"
)

// metered is a machine that knows its memory, or does not.
type metered struct {
	vmm.Machine
	memory vmm.Memory
	err    error
}

func (m metered) Memory(ctx context.Context) (vmm.Memory, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return vmm.Memory{}, errors.New("it is asked without a deadline")
	}
	return m.memory, m.err
}

func TestMemory(t *testing.T) {
	if got := memory(metered{memory: vmm.Memory{Used: 5, Returned: 7}}); got == nil || *got != (Memory{Used: 5, Returned: 7}) {
		t.Errorf("got %v", got)
	}
	for name, machine := range map[string]vmm.Machine{
		"none yet": nil, "no statistics": metered{}, "no answer": metered{memory: vmm.Memory{Used: 5}, err: errors.New("paused")},
	} {
		if got := memory(machine); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
