package sandbox

import (
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Host is what runs a sandbox.
type Host struct {
	VMM     string
	Accel   vmm.Accel
	Program *record.Program // of the VMM that it was made for; nil: not recorded
}

// Rehost changes what a sandbox that does not run is run by, from its next start on.
func (m *Manager) Rehost(name string, h Host) (record.Record, error) {
	return m.change(name, "rehost", func(r *record.Record) error {
		r.VMM, r.Accel, r.VMMProgram = h.VMM, string(h.Accel), h.Program
		return nil
	})
}
