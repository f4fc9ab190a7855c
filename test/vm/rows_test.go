//go:build vm

package vm_test

import (
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	presets "github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/manifest"
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
// run and asks the agent for its version.
func TestEveryRowBoots(t *testing.T) {
	needLong(t)
	from := serve(t, *images)
	w := theWorld.fresh(t, from.address)
	for _, row := range published(t).Rows {
		t.Run(row.Preset+"-"+row.Arch+"-"+row.VMM, func(t *testing.T) {
			if row.Arch != runtime.GOARCH || row.VMM != "qemu" {
				t.Skipf("a row for %s under %s cannot be chosen on this host yet", row.Arch, row.VMM)
			}
			name := "row-" + row.Preset
			w.must(t, row.Preset, "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G")
			defer w.remove(name)
			out := w.must(t, append([]string{"exec", name, "--"}, check(t, row.Preset)...)...)
			if !strings.Contains(out, row.Agent.Version) {
				t.Errorf("the agent says %q, the manifest %s", out, row.Agent.Version)
			}
			if kernel := strings.TrimSpace(w.must(t, "exec", name, "--", "uname", "-r")); kernel != row.Kernel.Version {
				t.Errorf("the kernel is %s, the manifest says %s", kernel, row.Kernel.Version)
			}
		})
	}
}

// check is how a preset's agent prints its version.
func check(t *testing.T, preset string) []string {
	t.Helper()
	data, err := fs.ReadFile(presets.Files(), preset+".toml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := config.DecodePreset(data, preset)
	if err != nil {
		t.Fatal(err)
	}
	return p.Agent.Check
}
