package cli

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
)

// TestFirecrackerThatFails: a start that fails on Firecracker is tried once more;
// then QEMU runs the sandbox, unless Firecracker was asked for.
func TestFirecrackerThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		named    bool
		failures int
		code     fault.Code
		vmms     []string // of the sandboxes that were made
		status   int
		said     string
	}{
		"once":              {false, 1, fault.Boot, []string{"firecracker", "firecracker"}, 0, "is tried once more: it died"},
		"twice":             {false, 2, fault.Boot, []string{"firecracker", "firecracker", "qemu"}, 0, "QEMU runs it instead"},
		"twice, host":       {false, 2, fault.Host, []string{"firecracker", "firecracker", "qemu"}, 0, "QEMU runs it instead"},
		"always":            {false, 9, fault.Boot, []string{"firecracker", "firecracker", "qemu"}, 125, "smolvm: it died"},
		"twice, asked for":  {true, 2, fault.Boot, []string{"firecracker", "firecracker"}, 125, "smolvm: it died"},
		"for another cause": {false, 2, fault.Storage, []string{"firecracker"}, 125, "smolvm: it died"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.rows = append(w.rows, w.rows[0])
			w.rows[1].VMM = config.Firecracker
			w.app.Machine = func(string, string) (machine, error) {
				return machine{arch: "amd64", vmm: config.Firecracker, named: c.named, cpus: 4, memoryMiB: 8192}, nil
			}
			left := c.failures
			w.started = func(context.Context) {
				w.startErr = nil
				if left--; left >= 0 {
					w.startErr = fault.New(c.code, "", "it died")
				}
			}
			if got := w.app.Main([]string{"claude", "start", "--no-attach"}); got != c.status {
				t.Errorf("exit status %d, want %d", got, c.status)
			}
			var vmms []string
			for _, s := range w.created {
				vmms = append(vmms, s.VMM)
				if !s.Network {
					t.Errorf("no network on %s", s.VMM)
				}
			}
			if !slices.Equal(vmms, c.vmms) || !strings.Contains(w.errs.String(), c.said) {
				t.Errorf("made on %v, want %v; said %s", vmms, c.vmms, &w.errs)
			}
		})
	}
}
