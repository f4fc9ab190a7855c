package kernel_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recipe copies what kernel/build reads into a folder of its own, with a text added
// to the shared fragment, and gives the name that results of it begin with.
func recipe(t *testing.T, added string) (script, name string) {
	t.Helper()
	dir := t.TempDir()
	sum := sha256.New()
	fmt.Fprintln(sum, "recipe 1 amd64")
	for _, file := range []string{"build", "source.lock", "common.config", "amd64.config"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		if file == "common.config" {
			text += added
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			if strings.HasSuffix(file, ".config") && strings.TrimSpace(line) != "" && line[0] != '#' {
				fmt.Fprint(sum, line)
			}
		}
	}
	return filepath.Join(dir, "build"), fmt.Sprintf("%x", sum.Sum(nil))[:16]
}

// find runs kernel/build --find, with PATH so that it could build nothing.
func find(t *testing.T, script, cache string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", append([]string{script, "--find"}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "SMOLVM_BUILD_CACHE=" + cache}
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// put leaves a result of the given age.
func put(t *testing.T, cache, name string, age time.Duration) string {
	t.Helper()
	folder := filepath.Join(cache, "linux", name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "release"), []byte("6.12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Now().Add(-age)
	if err := os.Chtimes(folder, when, when); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestFindTakesResultsOfThisRecipeOnly(t *testing.T) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("coreutils are missing")
	}
	script, name := recipe(t, "")
	cache := t.TempDir()
	if got, err := find(t, script, cache, "amd64"); err == nil {
		t.Errorf("an empty cache has %q", got)
	}
	put(t, cache, "amd64-debian-0000000000000000-1", 0)
	put(t, cache, "arm64-debian-"+name+"-1", 0)
	if got, err := find(t, script, cache, "amd64"); err == nil {
		t.Errorf("found %q of another recipe or architecture", got)
	}
	for _, step := range []struct {
		name string
		age  time.Duration
	}{
		{"amd64-debian-" + name + "-2", time.Hour},       // the only one
		{"amd64-debian-" + name + "-1", time.Minute},     // the newest
		{"amd64-upstream-" + name + "-3", 2 * time.Hour}, // older, but upstream's
	} {
		want := put(t, cache, step.name, step.age)
		if got, err := find(t, script, cache, "amd64"); err != nil || got != want {
			t.Errorf("found %q, %v; want %s", got, err, want)
		}
	}
	if err := os.Remove(filepath.Join(cache, "linux", "amd64-upstream-"+name+"-3", "release")); err != nil {
		t.Fatal(err)
	}
	if got, _ := find(t, script, cache, "amd64"); strings.Contains(got, "upstream") {
		t.Errorf("took %q, which is not whole", got)
	}
}

func TestCommentsDoNotCostABuild(t *testing.T) {
	_, plain := recipe(t, "")
	script, name := recipe(t, "\n# Another reason.\n")
	cache := t.TempDir()
	want := put(t, cache, "amd64-debian-"+plain+"-1", 0)
	if got, err := find(t, script, cache, "amd64"); err != nil || got != want || name != plain {
		t.Errorf("found %q, %v; want %s", got, err, want)
	}
	script, _ = recipe(t, "CONFIG_USB=y\n")
	if got, err := find(t, script, cache, "amd64"); err == nil {
		t.Errorf("another configuration found %q", got)
	}
}

func TestFindRefusesOtherArchitectures(t *testing.T) {
	script, _ := recipe(t, "")
	for _, args := range [][]string{{}, {"riscv64"}} {
		if got, err := find(t, script, t.TempDir(), args...); err == nil {
			t.Errorf("%q: found %q", args, got)
		}
	}
}
