//go:build vm

package vm_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fsimg/ext4"
	"github.com/smolvm/smolvm/test/catalogue"
)

// topLayer publishes the image anew, with a layer on top that has one more file.
func topLayer(t *testing.T, made *catalogue.Catalogue) {
	t.Helper()
	tree, disk := t.TempDir(), filepath.Join(t.TempDir(), "layer.ext4")
	if err := os.MkdirAll(filepath.Join(tree, "usr/local"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "usr/local/marker"), []byte("newer\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mkfs, err := exec.LookPath("/usr/sbin/mkfs.ext4")
	if err != nil {
		t.Skip("mkfs.ext4 (e2fsprogs) is needed to make a layer")
	}
	if out, err := exec.CommandContext(t.Context(), mkfs, "-q", "-d", tree, "-O", "^has_journal", disk, "4M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	asset, err := made.Add(t.Context(), "top", []byte(read(t, disk)))
	if err != nil {
		t.Fatal(err)
	}
	row := &made.Manifest.Rows[0]
	row.Layers = append(slices.Clone(row.Layers), asset)
	made.Manifest.Serial++
	made.Manifest.Release += "-newer"
	made.Manifest.Created = made.Manifest.Created.Add(time.Second)
	if err := made.Publish(); err != nil {
		t.Fatal(err)
	}
}

// TestUpdate gives a sandbox newer layers: what is in home and workspace stays,
// what was changed in the system is said and goes.
func TestUpdate(t *testing.T) {
	needLong(t)
	dir := t.TempDir()
	made := republished(t, dir)
	w := theWorld.fresh(t, made.Address)
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte(made.PublicKey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(args ...string) []string { return append([]string{"--trusted-key", key}, args...) }
	w.must(t, with(launch("box")...)...)
	w.must(t, "exec", "box", "--", "sh", "-c", `echo kept >~/f; echo kept >/workspace/f
		sudo sh -c "echo mine >/etc/motd.mine; rm /usr/bin/rg; mkdir -p /opt/tool/lib/deep; touch /opt/tool/lib/deep/a /opt/tool/lib/deep/b"`)
	w.must(t, "stop", "box")
	if r := w.run(t, nil, with("update", "box")...); r.status != 0 || !strings.Contains(r.stderr, "has the newest image already") {
		t.Fatalf("update of a current sandbox: %+v", r)
	}

	topLayer(t, made)
	if r := w.run(t, nil, with("start", "box", "--no-attach")...); r.status != 0 || !strings.Contains(r.stderr, "There is a newer image for box") {
		t.Errorf("a start with a newer image: %+v", r)
	}
	if r := w.run(t, nil, with("update", "box", "--yes")...); r.status != 4 {
		t.Errorf("update of one that runs: %+v", r)
	}
	w.must(t, "stop", "box")
	if got := w.must(t, "list"); !strings.Contains(got, "(outdated)") {
		t.Errorf("it is not marked:\n%s", got)
	}
	r := w.run(t, nil, with("update")...)
	for _, part := range []string{"drops /etc/motd.mine", "drops /opt/tool/lib (2 files)", "brings back /usr/bin/rg", "Add --yes"} {
		if !strings.Contains(r.stderr, part) {
			t.Errorf("it does not say %q", part)
		}
	}
	if lines := strings.Count(r.stderr, "\n"); r.status != 2 || lines > 8 {
		t.Errorf("update without a terminal: status %d\n%s", r.status, r.stderr)
	}
	w.must(t, with("update", "--yes")...)
	if got := w.must(t, "list"); strings.Contains(got, "outdated") {
		t.Errorf("it is still marked:\n%s", got)
	}
	w.must(t, "start", "box", "--no-attach")
	got := w.must(t, "exec", "box", "--", "sh", "-c", "cat /usr/local/marker ~/f /workspace/f; ls /etc/motd.mine /opt/tool; command -v rg; claude --version >/dev/null && echo runs")
	if want := "newer\nkept\nkept\n/usr/bin/rg\nruns\n"; got != want {
		t.Errorf("after the update %q, want %q", got, want)
	}
	w.must(t, "stop", "box")
	if names := onScratch(w.scratch("box")); !slices.Contains(names, "upper-1") || slices.Contains(names, "work") {
		t.Errorf("on the scratch: %q", names)
	}
}

// onScratch are the names at the root of a scratch that is not in use, or hardly.
func onScratch(path string) (names []string) {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	disk, err := ext4.Open(file)
	if err != nil {
		return []string{"upper", err.Error()}
	}
	_ = disk.Walk(func(e ext4.Entry) error {
		names = append(names, e.Name)
		if e.Mode.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return names
}
