//go:build vm

package vm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// buildBound is the longest a build of all presets from nothing may take on a busy
// host.
const buildBound = 100 * time.Minute

// TestBuildIsReproducible builds the base and the layers of the presets that -rebuild
// names with an empty cache and compares what the guest sees of each, byte for byte,
// with the published image, or, when that was made from other recipes or packages,
// with a second build.
func TestBuildIsReproducible(t *testing.T) {
	needLong(t)
	presets := strings.Split(*rebuild, ",")
	if *rebuild == "all" {
		presets = publishedPresets(t)
	}
	ours := build(t, presets...)
	for _, name := range presets {
		t.Run(name, func(t *testing.T) {
			other := *images
			if text := cmp.Diff(madeFrom(t, other, name), madeFrom(t, ours, name)); text != "" {
				t.Logf("the published image was made from other things, building a second time:\n%.400s", text)
				other = build(t, name)
				if text := cmp.Diff(madeFrom(t, other, name), madeFrom(t, ours, name)); text != "" {
					t.Skipf("the package archive changed between two builds:\n%s", text)
				}
			}
			compareImages(t, name, other, ours)
		})
	}
}

// publishedPresets are those that are published for this computer.
func publishedPresets(t *testing.T) (names []string) {
	t.Helper()
	for _, row := range published(t).Rows {
		if row.Arch == runtime.GOARCH && !slices.Contains(names, row.Preset) {
			names = append(names, row.Preset)
		}
	}
	return names
}

// compareImages compares a preset's image in two published folders.
func compareImages(t *testing.T, name, other, ours string) {
	t.Helper()
	want, got := contents(t, other, name), contents(t, ours, name)
	for _, part := range slices.Sorted(maps.Keys(want)) {
		if got[part] == want[part] {
			t.Logf("%s is the same: %s, %d bytes", part, got[part].SHA256, got[part].Size)
			continue
		}
		t.Errorf("%s differs: %+v and %+v", part, want[part], got[part])
	}
	if t.Failed() {
		t.Errorf("what differs:\n%s", differences(t, name, other, ours))
	}
}

// build builds and publishes presets with an empty cache and gives the folder. It has
// the environment of the test itself, where the package archives are set up.
func build(t *testing.T, presets ...string) string {
	t.Helper()
	work := t.TempDir()
	private, public, err := trust.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, out := filepath.Join(work, "key"), filepath.Join(work, "out")
	for path, text := range map[string]string{key: private, key + ".pub": public} {
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildBound)
	defer cancel()
	args := append([]string{"image", "build", "--unlocked", "--output", out, "--key", key}, publishedKernel(t)...)
	cmd := exec.CommandContext(ctx, theWorld.bin, append(args, presets...)...)
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+filepath.Join(work, "home"), "SMOLVM_BUILD_CACHE="+filepath.Join(work, "cache"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("build: %v\n%s", err, said.String())
	}
	if err := os.RemoveAll(filepath.Join(work, "cache")); err != nil { // 2 GB
		t.Fatal(err)
	}
	return out
}

// publishedKernel asks for our own kernel when the published image has it and it is
// in the build cache still; else a distribution's stands in.
func publishedKernel(t *testing.T) []string {
	t.Helper()
	for _, row := range published(t).Rows {
		if row.Arch != runtime.GOARCH || row.Kernel.StandIn != "" {
			continue
		}
		if folder, err := exec.Command("../../kernel/build", "--find", row.Arch).Output(); err == nil {
			return []string{"--kernel", strings.TrimSpace(string(folder))}
		}
	}
	return nil
}

// madeFrom is what a published folder's image of a preset was made from: the keys of
// the steps, and each package with its digest. The guest agent that packs is not part.
func madeFrom(t *testing.T, dir, name string) map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "build-"+name+"-"+runtime.GOARCH+"-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no build record: %v", dir, err)
	}
	newest := slices.MaxFunc(files, func(a, b string) int { return modified(t, a).Compare(modified(t, b)) })
	var records []imagebuild.Record
	if err := json.Unmarshal([]byte(read(t, newest)), &records); err != nil {
		t.Fatal(err)
	}
	from := map[string]any{}
	for _, r := range records {
		from[r.Name+" key"] = r.Key
		from[r.Name+" inputs"] = r.Inputs
	}
	return from
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// contents are the digests of what a folder's row of a preset expands to.
func contents(t *testing.T, dir, name string) map[string]manifest.Digest {
	t.Helper()
	m, err := manifest.Parse([]byte(read(t, filepath.Join(dir, "manifest.json"))))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]manifest.Digest{}
	for _, row := range m.Rows {
		if row.Preset != name || row.Arch != runtime.GOARCH {
			continue
		}
		found["kernel"] = row.Kernel.Image.Content
		if row.Kernel.Modules != nil {
			found["modules"] = row.Kernel.Modules.Content
		}
		for _, layer := range row.Layers {
			found[layer.Name] = layer.Content
		}
	}
	return found
}

// differences names the files that differ between the layers of a preset in two
// folders.
func differences(t *testing.T, name, a, b string) string {
	t.Helper()
	left, right := layers(t, name, a), layers(t, name, b)
	var text []string
	for name, path := range left {
		one, two := tree(t, path), tree(t, right[name])
		for _, file := range slices.Sorted(maps.Keys(one)) {
			if one[file] != two[file] {
				text = append(text, fmt.Sprintf("%s: %s: %q and %q", name, file, one[file], two[file]))
			}
		}
		for file := range two {
			if _, there := one[file]; !there {
				text = append(text, fmt.Sprintf("%s: %s is only in the second", name, file))
			}
		}
	}
	const most = 200
	if len(text) > most {
		text = append(text[:most], fmt.Sprintf("and %d more", len(text)-most))
	}
	if len(text) == 0 {
		return "no file: the file systems' own structures differ"
	}
	return strings.Join(text, "\n")
}

// layers pulls a preset's image of a folder into a cache of its own and gives the
// layers' paths by name.
func layers(t *testing.T, preset, dir string) map[string]string {
	t.Helper()
	w := theWorld.fresh(t, filepath.Join(dir, "manifest.json"))
	args := []string{"image", "pull", preset}
	if key := filepath.Join(filepath.Dir(dir), "key.pub"); exists(key) {
		args = append(args, "--trusted-key", key)
	}
	w.must(t, args...)
	paths, err := filepath.Glob(filepath.Join(w.home, "images", "*", "*", "*.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, path := range paths {
		found[filepath.Base(path)] = path
	}
	return found
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tree describes every file of an ext4 file system: mode, size, time, content.
func tree(t *testing.T, image string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), administrators("debugfs"), "-R", "rdump / "+dir, image).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[name], err = describe(path, entry)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func describe(path string, entry fs.DirEntry) (string, error) {
	info, err := entry.Info()
	if err != nil {
		return "", err
	}
	text := info.Mode().String()
	switch {
	case entry.Type() == fs.ModeSymlink:
		target, err := os.Readlink(path)
		return text + " to " + target, err
	case !entry.Type().IsRegular():
		return text, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	return fmt.Sprintf("%s %s %d %s", text, info.ModTime().UTC().Format(time.RFC3339), size, hex.EncodeToString(sum.Sum(nil))[:16]), err
}
