package images_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/preset"
)

func shipped(t *testing.T) []preset.Preset {
	t.Helper()
	presets, err := config.Presets(images.Files())
	if err != nil {
		t.Fatal(err)
	}
	return presets
}

func TestPresets(t *testing.T) {
	ports := map[string][]int{"openclaw": {18789}}
	for _, p := range shipped(t) {
		if !slices.Contains(p.Agent.Check, "--version") {
			t.Errorf("%s: the smoke command %q does not ask for the version", p.Name, p.Agent.Check)
		}
		if len(p.Ask) == 0 || len(p.Environment) == 0 {
			t.Errorf("%s: ask %q, environment %q: one is missing", p.Name, p.Ask, p.Environment)
		}
		if !slices.Equal(p.Ports, ports[p.Name]) {
			t.Errorf("%s: ports %v, want %v", p.Name, p.Ports, ports[p.Name])
		}
		for _, rule := range p.Credentials {
			host, port, _ := rule.HostPort()
			if !reaches(t, p, host, port) {
				t.Errorf("%s: %s is for %s, which it does not reach where the network is restricted", p.Name, rule.Name, rule.Host)
			}
		}
		for _, f := range p.Recipe.Files {
			if path.Ext(f.Path) == ".json" && !json.Valid([]byte(f.Content)) {
				t.Errorf("%s: %s is not JSON", p.Name, f.Path)
			}
		}
	}
}

// reaches tells whether a preset's own rules let it reach a host.
func reaches(t *testing.T, p preset.Preset, host string, port uint16) bool {
	t.Helper()
	policy := egress.Policy{Mode: egress.Restricted}
	for _, text := range p.Reaches {
		r, err := egress.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		policy = policy.Allowing(r)
	}
	return policy.Says(egress.Needed, host, port).Allowed
}

// TestPagesAreTrue: the page about presets shows a file that works, the one about
// agents the versions and ports of today.
func TestPagesAreTrue(t *testing.T) {
	page, err := os.ReadFile("../docs/presets.md")
	if err != nil {
		t.Fatal(err)
	}
	agents, err := os.ReadFile("../docs/agents.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```toml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the page has no example")
	}
	p, err := config.DecodePreset([]byte(example), "docs/presets.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Services) != 1 || len(p.Recipe.Files) != 1 || len(p.Recipe.Locks) != 1 || p.Arguments == nil || p.Ask == nil {
		t.Errorf("the example leaves something out: %+v", p)
	}
	for _, p := range shipped(t) {
		for _, want := range append(slices.Clone(p.Environment), p.Agent.Version, p.Name) {
			if !strings.Contains(string(agents), want) {
				t.Errorf("%s: the page does not say %s", p.Name, want)
			}
		}
		for _, port := range p.Ports {
			if !strings.Contains(string(agents), strconv.Itoa(port)) {
				t.Errorf("%s: the page does not name port %d", p.Name, port)
			}
		}
	}
}

// TestPresetsAreLocked: what a preset installs from an index has a digest in a lock
// file, whose own digest is in the recipe.
func TestPresetsAreLocked(t *testing.T) {
	used := map[string]bool{}
	for _, p := range shipped(t) {
		if len(p.Recipe.Locks) == 0 {
			t.Errorf("%s: no lock file", p.Name)
		}
		for _, l := range p.Recipe.Locks {
			used[l.File] = true
			data, err := fs.ReadFile(images.Files(), l.File)
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != l.SHA256 {
				t.Errorf("%s: %s has SHA-256 %x, the recipe names %s", p.Name, l.File, sum, l.SHA256)
			}
			check := lockedByPip
			if strings.HasSuffix(l.File, ".json") {
				check = lockedByNPM
			}
			check(t, l.File, string(data), p.Agent.Version)
		}
	}
	folders, err := fs.Glob(images.Files(), "*/*")
	folders = slices.DeleteFunc(folders, func(f string) bool { return strings.HasPrefix(f, "base/") })
	if err != nil || len(folders) != len(used) {
		t.Errorf("lock files %v, used are %v: %v", folders, used, err)
	}
}

// lockedByNPM: the agent has the version, every package a digest, and none an
// address, which would be that of one index.
func lockedByNPM(t *testing.T, file, data, version string) {
	t.Helper()
	type entry struct {
		Version, Integrity, Resolved string
		InBundle                     bool
		Dependencies                 map[string]string
	}
	var lock struct{ Packages map[string]entry }
	if err := json.Unmarshal([]byte(data), &lock); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for name, e := range lock.Packages {
		if name != "" && !e.InBundle && !strings.HasPrefix(e.Integrity, "sha512-") || e.Resolved != "" {
			t.Errorf("%s: %q has integrity %q and address %q", file, name, e.Integrity, e.Resolved)
		}
	}
	root := lock.Packages[""].Dependencies
	for name, v := range root {
		if v != version || lock.Packages["node_modules/"+name].Version != version {
			t.Errorf("%s: %s is locked at %s, the preset pins %s", file, name, v, version)
		}
	}
	if len(root) != 1 {
		t.Errorf("%s installs %v, want the agent alone", file, root)
	}
}

var (
	requirement = regexp.MustCompile(`^[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^ ;]+( ; [^\\]+)? \\$`)
	digest      = regexp.MustCompile(`^    --hash=sha256:[0-9a-f]{64}( \\)?$`)
)

// lockedByPip: every line is an exact version or a digest, and each version is
// followed by a digest.
func lockedByPip(t *testing.T, file, data, version string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(data, "\n"), "\n")
	for i, line := range lines {
		switch {
		case requirement.MatchString(line) && i+1 < len(lines) && digest.MatchString(lines[i+1]):
		case digest.MatchString(line):
		default:
			t.Errorf("%s:%d: %q is neither an exact version with a digest below it nor a digest", file, i+1, line)
		}
	}
	if !strings.Contains(data, "=="+version+" ") {
		t.Errorf("%s does not hold version %s", file, version)
	}
}
