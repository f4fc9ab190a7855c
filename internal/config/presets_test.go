package config

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/images"
)

// file is a preset's file.
func file(name string, aliases ...string) string {
	quoted := ""
	for _, a := range aliases {
		quoted += "'" + a + "',"
	}
	return "name = '" + name + "'\naliases = [" + quoted + "]\nsummary = 'an agent'\nlaunch = ['x']\n" +
		"[agent]\nname = 'X'\nversion = '1.2'\ncheck = ['x', '--version']\n" +
		"[resources]\nmemory_mib = 512\ndisk_mib = 1024\n" +
		"[[recipe.steps]]\nname = 'install'\nrun = 'install x 1.2'\n"
}

func folder(files map[string]string) fstest.MapFS {
	fs := fstest.MapFS{}
	for name, text := range files {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

func TestDecodePreset(t *testing.T) {
	p, err := DecodePreset([]byte(file("x", "y")), "x.toml")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"x", "y"}, p.Words()); d != "" || p.Resources.DiskMiB != 1024 || p.Recipe.Steps[0].Run != "install x 1.2" {
		t.Errorf("decoded %+v", p)
	}
}

func TestDecodePresetRefuses(t *testing.T) {
	for want, text := range map[string]string{
		"is missing":                           "",
		`line 6: unknown field "agent.colour"`: strings.Replace(file("x"), "name = 'X'", "colour = 'red'\nname = 'X'", 1),
		"line 1, column":                       "name = ",
		"line 2, column":                       "name = 'x'\nname = 'y'\n",
		"toml:":                                "name = 3",
		"invalid":                              "name = 'x\xff'",
		"has more than 1048576 bytes":          file("x") + "#" + strings.Repeat("x", maxPreset),
		"agent.version: \"latest\" is not an exact": strings.Replace(file("x"), "'1.2'", "'latest'", 1),
	} {
		_, err := DecodePreset([]byte(text), "mine.toml")
		wantUsage(t, err, "mine.toml", want)
	}
}

// TestDecodePresetSaysAll: every unknown field, and what is wrong with the others.
func TestDecodePresetSaysAll(t *testing.T) {
	text := "colour = 'red'\n" + strings.Replace(file("x"), "name = 'X'", "shape = 'round'\nname = ''", 1)
	_, err := DecodePreset([]byte(text), "mine.toml")
	for _, want := range []string{`line 1: unknown field "colour"`, `line 7: unknown field "agent.shape"`, "agent.name"} {
		wantUsage(t, err, "mine.toml", want)
	}
}

func TestPresets(t *testing.T) {
	all, err := Presets(folder(map[string]string{
		"pi.toml": file("pi"), "a.toml": file("zed"), "b.toml": file("aider"), "c.toml": file("codex"),
		"d.toml": file("claude-code", "claude"), "base.toml": "not = 'a preset'", "README.md": "x",
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range all {
		got = append(got, p.Name)
	}
	if d := cmp.Diff([]string{"claude-code", "codex", "pi", "aider", "zed"}, got); d != "" {
		t.Error(d)
	}
}

func TestPresetsRefuse(t *testing.T) {
	for want, files := range map[string]map[string]string{
		`"x" already names preset x`:  {"a.toml": file("x"), "b.toml": file("x")},
		`"al" already names preset x`: {"a.toml": file("x", "al"), "b.toml": file("y", "al")},
		`"y" already names preset x`:  {"a.toml": file("x", "y"), "b.toml": file("y")},
		"b.toml":                      {"a.toml": file("x"), "b.toml": "?"},
	} {
		_, err := Presets(folder(files))
		wantUsage(t, err, want)
	}
}

// TestOwnPresets checks the files that are shipped.
func TestOwnPresets(t *testing.T) {
	all, err := Presets(images.Files())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range all {
		got = append(got, p.Name)
	}
	if d := cmp.Diff(order, got); d != "" {
		t.Error(d)
	}
}

func FuzzDecodePreset(f *testing.F) {
	f.Add([]byte(file("x", "y")))
	f.Add([]byte("name = \"\\u0000\"\n[[recipe.files]]\npath='/x'"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := DecodePreset(data, "fuzz"); err == nil && p.Validate() != nil {
			t.Errorf("a preset that is not valid came through: %+v", p)
		}
	})
}
