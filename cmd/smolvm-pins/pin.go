package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/smolvm/smolvm/internal/preset"
)

// index is where a package comes from.
type index interface {
	newest(ctx context.Context, name string) (string, error)
	// lock makes the lock file of a package anew; old is the one that there is.
	lock(ctx context.Context, name, version string, old []byte) ([]byte, error)
	// size of a package without what it depends on, in bytes; 0: the index does not say.
	size(ctx context.Context, name, version string) int64
}

// pin is a version that a recipe names.
type pin struct {
	preset, name, version string
	recipe, lockFile      string // paths; lockFile may be empty
	digest                string // that the recipe names for the lock file
	from                  index
}

// row is a line of the table.
type row struct {
	pin      pin
	newest   string
	stuck    error  // why the newest version cannot be had; nothing is changed then
	packages [2]int // numbers of locked packages, before and after
	sizes    [2]int64
}

// follows reports whether the recipe gets another version.
func (r row) follows() bool { return r.newest != r.pin.version && r.stuck == nil }

func (r row) String() string {
	newest := r.newest
	if r.stuck != nil {
		newest += ", which cannot be locked"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", r.pin.preset, r.pin.name, r.pin.version, newest,
		change(r.packages[0] > 0, fmt.Sprint(r.packages[0]), fmt.Sprint(r.packages[1])),
		change(r.sizes[0] > 0, mib(r.sizes[0]), mib(r.sizes[1])))
}

func change(known bool, before, after string) string {
	switch {
	case !known:
		return ""
	case before == after:
		return before
	default:
		return before + " → " + after
	}
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// pinOf finds out what a preset installs: what its lock file is for, or without one
// the package that a step names with the agent's version.
func pinOf(dir string, p preset.Preset) (pin, error) {
	found := pin{preset: p.Name, version: p.Agent.Version, recipe: filepath.Join(dir, p.Name+".toml"), from: npm{}}
	if len(p.Recipe.Locks) > 0 {
		return found.locked(dir, p.Recipe.Locks[0])
	}
	named := regexp.MustCompile(`(?:^|\s)((?:@[\w.-]+/)?[\w.-]+)@` + regexp.QuoteMeta(found.version) + `(?:\s|$)`)
	for _, s := range p.Recipe.Steps {
		if m := named.FindStringSubmatch(s.Run); m != nil {
			found.name = m[1]
			return found, nil
		}
	}
	return found, fmt.Errorf("no step names a package with version %s, and there is no lock file", found.version)
}

func (p pin) locked(dir string, l preset.Lock) (pin, error) {
	p.lockFile, p.digest = filepath.Join(dir, filepath.FromSlash(l.File)), l.SHA256
	raw, err := os.ReadFile(p.lockFile)
	if err != nil {
		return p, fmt.Errorf("read its lock file: %w", err)
	}
	if path.Ext(l.File) == ".json" {
		p.name, err = lockedByNPM(raw, p.version)
		return p, err
	}
	p.from = pypi{}
	p.name, err = lockedByPip(raw, p.preset, p.version)
	return p, err
}

func lockedByNPM(raw []byte, version string) (string, error) {
	var lock struct {
		Packages map[string]struct{ Dependencies map[string]string }
	}
	if err := json.Unmarshal(raw, &lock); err != nil {
		return "", fmt.Errorf("read its lock file: %w", err)
	}
	for name, wanted := range lock.Packages[""].Dependencies {
		if wanted == version {
			return name, nil
		}
	}
	return "", fmt.Errorf("its lock file is not for version %s", version)
}

// lockedByPip is the package with the agent's version that is named like the preset.
func lockedByPip(raw []byte, name, version string) (string, error) {
	for _, m := range regexp.MustCompile(`(?m)^([\w.-]+)==(\S+)`).FindAllStringSubmatch(string(raw), -1) {
		if m[2] == version && strings.Contains(m[1], name) {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("its lock file has no %s of version %s", name, version)
}

// refresh compares with the index, and with write follows it.
func (p pin) refresh(ctx context.Context, write bool) (row, error) {
	r := row{pin: p}
	var err error
	if r.newest, err = p.from.newest(ctx, p.name); err != nil {
		return r, err
	}
	r.sizes = [2]int64{p.from.size(ctx, p.name, p.version), p.from.size(ctx, p.name, r.newest)}
	var old []byte
	if p.lockFile != "" {
		if old, err = os.ReadFile(p.lockFile); err != nil {
			return r, err
		}
	}
	fresh := old
	if write && r.newest != p.version && old != nil {
		if fresh, err = p.from.lock(ctx, p.name, r.newest, old); err != nil {
			r.stuck, fresh = err, old
		}
	}
	r.packages = [2]int{packages(old), packages(fresh)}
	if !write || !r.follows() {
		return r, nil
	}
	return r, p.follow(r.newest, fresh)
}

// follow writes the lock file, if there is one, and the recipe.
func (p pin) follow(version string, lock []byte) error {
	digest := p.digest
	if p.lockFile != "" {
		digest = fmt.Sprintf("%x", sha256.Sum256(lock))
		if err := replace(p.lockFile, lock); err != nil {
			return err
		}
	}
	return p.rewrite(version, digest)
}

// packages counts those of a lock file of either kind.
func packages(raw []byte) int {
	return len(regexp.MustCompile(`(?m)^(    "node_modules/|[\w.-]+==)`).FindAll(raw, -1))
}

// rewrite makes the recipe name another version wherever it names the old one: in
// installers, in answers to first-run questions. Comments and order stay.
func (p pin) rewrite(version, digest string) error {
	raw, err := os.ReadFile(p.recipe)
	if err != nil {
		return fmt.Errorf("read the recipe: %w", err)
	}
	named := regexp.MustCompile(`(^|[^0-9.])` + regexp.QuoteMeta(p.version) + `($|[^0-9.])`)
	text := named.ReplaceAllString(string(raw), "${1}"+version+"${2}")
	if p.digest != "" {
		text = strings.ReplaceAll(text, p.digest, digest)
	}
	return replace(p.recipe, []byte(text))
}

// replace puts a file into place whole.
func replace(name string, data []byte) error {
	part := name + ".part"
	if err := os.WriteFile(part, data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(part, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
