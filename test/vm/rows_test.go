//go:build vm

package vm_test

import (
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	presets "github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
)

// published reads the manifest under test.
func published(t *testing.T) manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse([]byte(read(t, filepath.Join(*images, "manifest.json"))))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestEveryRowBoots boots every published row that this host's architecture can
// run, from bytes fetched over HTTP, and asks the agent for its version. Every
// shipped preset has to be published for this run (scripts/test-full does that).
func TestEveryRowBoots(t *testing.T) {
	needLong(t)
	bootRows(t, config.QEMU)
}

// TestEveryFirecrackerRowBoots boots the rows for Firecracker, with the one that
// -firecracker names, on a host whose KVM runs guests.
func TestEveryFirecrackerRowBoots(t *testing.T) {
	needLong(t)
	if *firecracker == "" {
		t.Skip("no Firecracker is named by -firecracker")
	}
	bootRows(t, config.Firecracker, "SMOLVM_BACKEND="+config.Firecracker, "SMOLVM_FIRECRACKER="+*firecracker)
}

func bootRows(t *testing.T, vmm string, env ...string) {
	from := serve(t, *images)
	w := theWorld.fresh(t, from.address)
	w.env = append(w.env, env...)
	rows := published(t).Rows
	for _, p := range shipped(t) {
		at := slices.IndexFunc(rows, func(r manifest.Row) bool {
			return r.Preset == p.Name && r.Arch == runtime.GOARCH && r.VMM == vmm
		})
		if at < 0 {
			t.Errorf("%s is not published for %s and %s: make publish PRESETS=%s", p.Name, vmm, runtime.GOARCH, p.Name)
			continue
		}
		t.Run(p.Name, func(t *testing.T) { bootRow(t, w, rows[at], p) })
	}
	if sent := from.total(); sent == 0 {
		t.Error("nothing was fetched")
	}
}

func bootRow(t *testing.T, w *world, row manifest.Row, p preset.Preset) {
	name := "row-" + row.Preset
	w.must(t, row.Preset, "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G")
	defer w.remove(name)
	if row.Agent.Version != p.Agent.Version {
		t.Errorf("the manifest has %s, the preset %s", row.Agent.Version, p.Agent.Version)
	}
	conform(t, w, name, promise{agent: p.Agent.Check, version: row.Agent.Version, memoryMiB: 1024})
	if kernel := strings.TrimSpace(w.must(t, "exec", name, "--", "uname", "-r")); kernel != row.Kernel.Version {
		t.Errorf("the kernel is %s, the manifest says %s", kernel, row.Kernel.Version)
	}
}

// shipped are the presets of this program.
func shipped(t *testing.T) []preset.Preset {
	t.Helper()
	all, err := config.Presets(presets.Files())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(p preset.Preset) bool { return p.Unpublished })
}
