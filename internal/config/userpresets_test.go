package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

const ownPreset = `name = "mine"
summary = "An agent of my own"
launch = ["mine"]
ask = ["mine"]

[agent]
name = "Mine"
version = "1.0.0"
check = ["mine", "--version"]

[resources]
memory_mib = 512
disk_mib = 1024

[[recipe.steps]]
name = "install"
limit = "5m"
run = "install-mine 1.0.0"
`

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUserPresets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with [brackets]")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	shipped := []preset.Preset{{Name: "codex", Aliases: []string{"cx"}}}
	path := write(t, dir, "b.toml", ownPreset)
	write(t, dir, "notes.txt", "not a preset")
	write(t, dir, "a.toml", strings.Replace(ownPreset, "mine", "codex", 1))
	write(t, dir, "c.toml", ownPreset) // the same name again
	write(t, dir, "d.toml", ownPreset+"\nunknown = 1\n")
	all, wrong := UserPresets(shipped, dir)
	if len(all) != 2 || all[1].Name != "mine" || all[1].Origin != path || !all[1].Unpublished || all[1].Recipe.Steps[0].Limit != "5m" {
		t.Errorf("presets %+v", all)
	}
	if len(wrong) != 3 || len(shipped) != 1 {
		t.Errorf("wrong: %v", wrong)
	}
	if all, wrong := UserPresets(shipped, filepath.Join(dir, "none")); len(all) != 1 || wrong != nil {
		t.Errorf("no folder: %v, %v", all, wrong)
	}
}

func TestAddPresetRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.toml"), 0o644); err != nil {
		t.Fatal(err)
	}
	shipped := []preset.Preset{{Name: "codex", Aliases: []string{"cx"}}}
	for name, c := range map[string]struct{ text, says string }{
		"shadow":   {strings.Replace(ownPreset, `name = "mine"`, `name = "cx"`, 1), `"cx" already names preset codex`},
		"reserved": {strings.Replace(ownPreset, `name = "mine"`, `name = "doctor"`, 1), "is a command of smolvm"},
		"path":     {strings.Replace(ownPreset, `name = "mine"`, `name = "../x"`, 1), "does not consist of"},
		"field":    {"colour = 1\n" + ownPreset, `unknown field "colour"`},
		"limit":    {strings.Replace(ownPreset, `"5m"`, `"soon"`, 1), "is not a time"},
		"forever":  {strings.Replace(ownPreset, `"5m"`, `"100h"`, 1), "is not a time"},
		"lock":     {ownPreset + "[[recipe.locks]]\nfile = \"x/y.json\"\nsha256 = \"" + strings.Repeat("a", 64) + "\"\n", "lock files"},
		"unpinned": {strings.Replace(ownPreset, "install-mine 1.0.0", "install-mine", 1), "nothing pins it"},
		"empty":    {"", "name"},
		"huge":     {"# " + strings.Repeat("x", maxPreset), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := AddPreset(shipped, write(t, dir, name+".toml", c.text))
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), name+".toml") || fault.CodeOf(err) != fault.Usage {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	for _, name := range []string{"none.toml", "pipe.toml", "."} {
		if _, err := AddPreset(shipped, filepath.Join(dir, name)); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}
