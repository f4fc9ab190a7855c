//go:build vm

package vm_test

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
)

// TestAnotherArchitectureBoots boots the smallest published row for an architecture
// that is not this host's, emulated, from bytes fetched over HTTP, and asks the
// agent for its version.
func TestAnotherArchitectureBoots(t *testing.T) {
	rows := foreignRows(t)
	if len(rows) == 0 {
		t.Fatal("no row for another architecture is published: make publish ARCH=arm64 PRESETS=pi (amd64 on arm64)")
	}
	bootForeign(t, slices.MinFunc(rows, func(a, b manifest.Row) int { return int(download(a) - download(b)) }))
}

// TestEveryForeignRowBoots boots all of them.
func TestEveryForeignRowBoots(t *testing.T) {
	needLong(t)
	for _, row := range foreignRows(t) {
		t.Run(row.Preset, func(t *testing.T) { bootForeign(t, row) })
	}
}

// foreignRows are those that only an emulator can run here.
func foreignRows(t *testing.T) []manifest.Row {
	t.Helper()
	return slices.DeleteFunc(published(t).Rows, func(r manifest.Row) bool {
		return r.Arch == runtime.GOARCH || r.VMM != "qemu"
	})
}

// download is how much is fetched for a row, in bytes.
func download(row manifest.Row) (size int64) {
	for _, layer := range row.Layers {
		size += layer.Archive.Size
	}
	return size
}

func bootForeign(t *testing.T, row manifest.Row) {
	p, known := preset.Find(shipped(t), row.Preset)
	if !known {
		t.Fatalf("%s is not a shipped preset", row.Preset)
	}
	from := serve(t, *images)
	w := theWorld.fresh(t, from.address)
	const name = "elsewhere"
	w.must(t, row.Preset, "start", "--arch", row.Arch, "-n", name, "--no-mount", "--no-attach", "--memory", "1G")
	defer w.remove(name)
	conform(t, w, name, promise{agent: p.Agent.Check, version: row.Agent.Version, memoryMiB: 1024})
	want := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[row.Arch]
	want = row.Kernel.Version + " " + want
	if got := strings.TrimSpace(w.must(t, "exec", name, "--", "uname", "-rm")); got != want {
		t.Errorf("kernel and machine are %q, want %q", got, want)
	}
	if from.total() < download(row) {
		t.Errorf("%d bytes were fetched of %d", from.total(), download(row))
	}
}
