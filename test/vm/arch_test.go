//go:build vm

package vm_test

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
)

// machines are the programs that emulate an architecture.
var machines = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}

// TestAnotherArchitectureBoots boots a published row for an architecture that is
// not this host's, emulated, and asks the agent for its version.
func TestAnotherArchitectureBoots(t *testing.T) {
	needLong(t)
	var row manifest.Row
	for _, r := range published(t).Rows {
		if r.Arch != runtime.GOARCH && r.VMM == "qemu" {
			row = r
		}
	}
	if row.Preset == "" {
		t.Skip("no row for another architecture is published: smolvm image publish --arch")
	}
	if _, err := exec.LookPath(machines[row.Arch]); err != nil {
		t.Skip(machines[row.Arch] + " is missing")
	}
	p, known := preset.Find(shipped(t), row.Preset)
	if !known {
		t.Skipf("%s is not a shipped preset", row.Preset)
	}
	w := theWorld.fresh(t, serve(t, *images).address)
	const name = "elsewhere"
	w.must(t, row.Preset, "start", "--arch", row.Arch, "-n", name, "--no-mount", "--no-attach", "--memory", "1G")
	defer w.remove(name)
	if out := w.must(t, append([]string{"exec", name, "--"}, p.Agent.Check...)...); !strings.Contains(out, row.Agent.Version) {
		t.Errorf("the agent says %q, the manifest %s", out, row.Agent.Version)
	}
	want := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[row.Arch]
	if got := strings.TrimSpace(w.must(t, "exec", name, "--", "uname", "-m")); got != want {
		t.Errorf("the machine is %s, want %s", got, want)
	}
}
