package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/preset"
)

// managers are package managers that know one version of everything.
var managers = map[string]string{
	"npm": `case $1 in
view) case $3 in version) echo "$NEWEST" ;; *) echo 3145728 ;; esac ;;
install)
	name=$(sed -n 's/.*"dependencies":{"\([^"]*\)".*/\1/p' package.json)
	printf '{\n  "name": "smolvm",\n  "packages": {\n    "": {"dependencies": {"%s": "%s"}},\n    "node_modules/%s": {}\n  }\n}\n' "$name" "$NEWEST" "$name" >package-lock.json ;;
esac`,
	"python3": `echo "$6 ($NEWEST)"`,
	"uv":      `read -r wanted; printf '%s \\\n    --hash=sha256:00\n' "$wanted"`,
}

func withManagers(t *testing.T, newest string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range managers {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	t.Setenv("NEWEST", newest)
}

// recipes is a copy of those that are shipped.
func recipes(t *testing.T) (dir string, all []preset.Preset) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, images.Files()); err != nil {
		t.Fatal(err)
	}
	return dir, decoded(t, dir)
}

func decoded(t *testing.T, dir string) []preset.Preset {
	t.Helper()
	all, err := config.Presets(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRefreshFollowsTheIndexes(t *testing.T) {
	withManagers(t, "9876.5.4")
	dir, before := recipes(t)
	list := filepath.Join(dir, "changed")
	var out bytes.Buffer
	if err := refresh(t.Context(), dir, true, list, &out); err != nil {
		t.Fatal(err)
	}
	for i, p := range decoded(t, dir) {
		if p.Agent.Version != "9876.5.4" {
			t.Errorf("%s names %s", p.Name, p.Agent.Version)
		}
		raw, _ := os.ReadFile(filepath.Join(dir, p.Name+".toml"))
		if strings.Contains(string(raw), before[i].Agent.Version) {
			t.Errorf("%s still names %s", p.Name, before[i].Agent.Version)
		}
		for _, l := range p.Recipe.Locks {
			lock, err := os.ReadFile(filepath.Join(dir, l.File))
			if sum := fmt.Sprintf("%x", sha256.Sum256(lock)); err != nil || sum != l.SHA256 {
				t.Errorf("%s: %s has the digest %s, the recipe says %s: %v", p.Name, l.File, sum, l.SHA256, err)
			}
			if !strings.Contains(string(lock), "9876.5.4") {
				t.Errorf("%s: %s is %s", p.Name, l.File, lock)
			}
		}
	}
	if names, _ := os.ReadFile(list); strings.Count(string(names), "\n") != len(before) {
		t.Errorf("changed: %q", names)
	}
	if !strings.Contains(out.String(), "| codex | @openai/codex | "+versionOf(before, "codex")+" | 9876.5.4 |") ||
		!strings.Contains(out.String(), "| 3.0 MiB |") || !strings.Contains(out.String(), "→ 1 |") {
		t.Errorf("the table is\n%s", out.String())
	}
	// A second time there is nothing to do.
	if err := refresh(t.Context(), dir, true, list, &out); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadFile(list); len(names) != 0 {
		t.Errorf("changed again: %q", names)
	}
}

func versionOf(all []preset.Preset, name string) string {
	p, _ := preset.Find(all, name)
	return p.Agent.Version
}

func TestDryRunChangesNothing(t *testing.T) {
	withManagers(t, "9876.5.4")
	dir, _ := recipes(t)
	if err := refresh(t.Context(), dir, false, "", &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir+"-fresh", images.Files()); err != nil {
		t.Fatal(err)
	}
	for i, p := range decoded(t, dir) {
		if fresh := decoded(t, dir+"-fresh")[i]; p.Agent.Version != fresh.Agent.Version {
			t.Errorf("%s is changed", p.Name)
		}
	}
}

// One agent whose newest version cannot be locked does not hold up the others.
func TestNewestThatCannotBeLocked(t *testing.T) {
	withManagers(t, "9876.5.4")
	t.Setenv("PATH", broken(t, "uv")+":"+os.Getenv("PATH"))
	dir, before := recipes(t)
	var out bytes.Buffer
	if err := refresh(t.Context(), dir, true, "", &out); err != nil {
		t.Fatal(err)
	}
	after := decoded(t, dir)
	if versionOf(after, "hermes") != versionOf(before, "hermes") || versionOf(after, "codex") != "9876.5.4" {
		t.Errorf("hermes is %s, codex %s", versionOf(after, "hermes"), versionOf(after, "codex"))
	}
	if !strings.Contains(out.String(), "9876.5.4, which cannot be locked |") {
		t.Errorf("the table is\n%s", out.String())
	}
}

// broken is a folder with a program that fails.
func broken(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What an index answers does not become part of a recipe unless it is a version.
func TestOddVersionsAreRefused(t *testing.T) {
	for _, version := range []string{"1.0.0-beta.1", "", "1.0\"; rm -rf /", "latest", "$(id)"} {
		withManagers(t, version)
		dir, _ := recipes(t)
		if err := refresh(t.Context(), dir, true, "", &bytes.Buffer{}); err == nil {
			t.Errorf("%q is taken", version)
		}
	}
}

// A part of a longer number is another version.
func TestRewrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.toml")
	if err := os.WriteFile(file, []byte("a@1.2.3 \"1.2.3\" 11.2.3 1.2.34 1.2.3.4\nv1.2.3-x sha:aa\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pin{version: "1.2.3", recipe: file, digest: "aa"}
	if err := p.rewrite("2.0.0", "bb"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "a@2.0.0 \"2.0.0\" 11.2.3 1.2.34 1.2.3.4\nv2.0.0-x sha:bb\n" {
		t.Errorf("got %q", got)
	}
}
