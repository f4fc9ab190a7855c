package sandbox_test

import (
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/sandbox"
)

// TestVMFork forks a real sandbox twice. The forks have its memory, and an identity and
// random numbers of their own; all three go on with the same mount.
func TestVMFork(t *testing.T) {
	f := newFamily(t)
	f.bench, _ = newVM(t, func(spec *sandbox.Spec) { spec.Mounts = f.mount() })
	f.tellOfFailure()
	f.prepare("vm")
	f.fork("vm", "fork-1", "fork-2")
	for _, name := range []string{"fork-1", "fork-2", "vm"} {
		f.lookAt(name)
	}
	f.startsAnew("fork-1", func() {
		if err := f.m.Stop(t.Context(), "fork-1", time.Minute); err != nil {
			t.Fatal(err)
		}
	})
	f.keptAndRestored("fork-2", "back") // which runs on from a snapshot itself
}
