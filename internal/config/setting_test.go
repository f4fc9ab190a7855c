package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

// The environment overrules the project, that the user's file; in a file a
// preset's table overrules the top.
func TestPrecedence(t *testing.T) {
	home := homeWith(t, "memory = \"1G\"\ncpus = 1\ndisk = \"5G\"\nenv = [\"A=1\", \"B=1\"]\n[preset.codex]\nmemory = \"2G\"\nenv = [\"B=2\"]\n")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, ProjectFile), []byte("cpus = 3\nenv = [\"C=3\"]\n[preset.codex]\ndisk = \"7G\"\n"), 0o644))
	c, err := Load([]string{"SMOLVM_HOME=" + home, "SMOLVM_MEMORY=9G"}, "")
	must(t, err)
	p, ok, err := c.ReadProject(dir)
	if err != nil || !ok || p.Trusted {
		t.Fatal(p, ok, err)
	}
	local := c.WithProject(p)
	for _, want := range []struct {
		c                         Config
		key, preset, text, origin string
	}{
		{local, "memory", "", "9G", "SMOLVM_MEMORY"},
		{local, "memory", "codex", "9G", "SMOLVM_MEMORY"},
		{local, "cpus", "codex", "3", p.File},
		{c, "cpus", "codex", "1", c.File},
		{local, "disk", "codex", "7G", p.File},
		{local, "disk", "", "5G", c.File},
		{local, "git_identity", "", "true", FromDefault},
		{local, "copy_back", "codex", "false", FromDefault},
		{local, "backend", "", "", FromDefault},
	} {
		v, origin := want.c.Lookup(want.key, want.preset)
		if v.Text != want.text || origin != want.origin {
			t.Errorf("%s of %q: %q from %s, want %q from %s", want.key, want.preset, v.Text, origin, want.text, want.origin)
		}
	}
	if d := cmp.Diff([]string{"A=1", "B=1", "B=2", "C=3"}, local.EnvEntries("codex")); d != "" {
		t.Error(d)
	}
	if n := c.Number("disk", ""); n != 5<<30 {
		t.Errorf("disk is %d", n)
	}
	env, err := local.Variables(local.EnvEntries("codex"), nil)
	if d := cmp.Diff(map[string]string{"A": "1", "B": "2", "C": "3"}, env); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestSettingsRefuse(t *testing.T) {
	for text, says := range map[string]string{
		"memroy = \"1G\"":         "Did you mean memory?",
		"memory = 4":              "line 1",
		"memory = \"4\"":          "has no unit",
		"cpus = 0":                "number of CPUs",
		"cpus = \"2\"":            "line 1",
		"use_published = \"yes\"": "line 1",
		"backend = \"vmware\"":    "vmware",
		"browser = \"firefox\"":   "neither ask nor show",
		"build_cache = \"here\"":  "relative",
		"idle_stop = \"0s\"":      "\"0s\" is not a time from 1s",
		"idle_stop = \"soon\"":    "Write a number and a unit, such as 30m, or never",
		"env = [\"1A=2\"]":        "not the name of a variable",
		"env = [\"A\", \"A\"]":    "twice",
		"credentials = []":        "credentials",
		"[preset.codex]\ncredentials = [\"KEY=secret\"]":    "does not belong",
		"[preset.codex]\ncredentials = [\"~/.ssh/id_rsa\"]": "~/.ssh",
		"[preset.codex]\ncredentials = [\"~/../x\"]":        "clean path",
		"[preset.codex]\nmanifest = \"/x\"":                 "manifest",
		"[preset.Codex]\ncpus = 1":                          "preset.Codex",
		"[preset]\ncpus = 1":                                "preset",
		"[preset.a.b]\ncpus = 1":                            "preset.a.b",
		"preset.codex.cpus = 1":                             "preset.codex.cpus",
	} {
		_, err := Load([]string{"SMOLVM_HOME=" + homeWith(t, text)}, "")
		if err == nil {
			t.Errorf("%q is accepted", text)
			continue
		}
		wantUsage(t, err, says)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q shows a value", err)
		}
	}
}

// Setting and taking away leaves all else as it was written.
func TestSetAndUnset(t *testing.T) {
	ctx := context.Background()
	set := func(key string, words ...string) func(Config) (bool, error) {
		return func(c Config) (bool, error) { return c.Set(ctx, key, words) }
	}
	unset := func(key string) func(Config) (bool, error) {
		return func(c Config) (bool, error) { return c.Unset(ctx, key) }
	}
	for name, test := range map[string]struct {
		before string
		do     func(Config) (bool, error)
		after  string // "": unchanged
	}{
		"replace":           {"# a\nmemory = '1G' # mine\n# b\n", set("memory", "2G"), "# a\nmemory = \"2G\" # mine\n# b\n"},
		"same":              {"memory = '1G'\n", set("memory", "1G"), ""},
		"first":             {"# only words\n", set("cpus", "2"), "cpus = 2\n# only words\n"},
		"under its comment": {"# how many\n#cpus = 4\n\n# x\n", set("cpus", "2"), "# how many\n#cpus = 4\ncpus = 2\n\n# x\n"},
		"before a table":    {"memory = \"1G\"\n\n[preset.codex]\ncpus = 1\n", set("cpus", "2"), "memory = \"1G\"\ncpus = 2\n\n[preset.codex]\ncpus = 1\n"},
		"comment of table":  {"[preset.codex]\n#cpus = 1\n", set("cpus", "2"), "cpus = 2\n[preset.codex]\n#cpus = 1\n"},
		"a list":            {"env = [\n  \"A\", # a\n]\n", set("env", "A", "B=x \"y\""), "env = [\"A\", \"B=x \\\"y\\\"\"]\n"},
		"new table":         {"cpus = 1", set("preset.codex.cpus", "2"), "cpus = 1\n\n[preset.codex]\ncpus = 2\n"},
		"old table":         {"[preset.codex] # c\nmemory = \"1G\"\n\n[preset.pi]\ncpus = 1\n", set("preset.codex.cpus", "2"), "[preset.codex] # c\nmemory = \"1G\"\ncpus = 2\n\n[preset.pi]\ncpus = 1\n"},
		"empty table":       {"[preset.codex]\n[preset.pi]\n", set("preset.codex.cpus", "2"), "[preset.codex]\ncpus = 2\n[preset.pi]\n"},
		"empty list":        {"[preset.pi]\n", set("preset.pi.credentials"), "[preset.pi]\ncredentials = []\n"},
		"unset":             {"# a\nmemory = \"1G\" # b\ncpus = 1\n", unset("memory"), "# a\ncpus = 1\n"},
		"unset of table":    {"cpus = 1\n[preset.codex]\ncpus = 2\n", unset("preset.codex.cpus"), "cpus = 1\n[preset.codex]\n"},
		"unset nothing":     {"cpus = 1\n", unset("memory"), ""},
		"beside catalogues": {"[[catalogue]]\naddress = \"/x\"\n", set("manifest", "/y"), "manifest = \"/y\"\n[[catalogue]]\naddress = \"/x\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t, homeWith(t, test.before))
			changed, err := test.do(c)
			if err != nil || changed != (test.after != "") {
				t.Fatalf("changed %v, %v", changed, err)
			}
			if test.after == "" {
				test.after = test.before
			}
			got, err := os.ReadFile(c.File)
			if d := cmp.Diff(test.after, string(got)); d != "" || err != nil {
				t.Error(d, err)
			}
			load(t, c.Home)
		})
	}
}

// The template is a configuration that sets nothing, and each of its lines can be
// taken into use.
func TestTemplate(t *testing.T) {
	home := t.TempDir()
	c := load(t, home)
	if changed, err := c.Set(context.Background(), "memory", []string{"3G"}); err != nil || !changed {
		t.Fatal(changed, err)
	}
	raw, err := os.ReadFile(c.File)
	must(t, err)
	if !strings.HasPrefix(string(raw), "# Configuration of smolvm") || !strings.Contains(string(raw), "#memory = \"4G\"\nmemory = \"3G\"\n") {
		t.Errorf("the file begins %.300s", raw)
	}
	if c = load(t, home); c.Number("memory", "") != 3<<30 {
		t.Error("it does not hold")
	}
	for line := range strings.SplitSeq(Template(), "\n") {
		if text, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(text, " ") && !strings.Contains(text, "RW...") {
			if strings.HasPrefix(text, "credential") || strings.HasPrefix(text, "copy_back") {
				text = "[preset.codex]\n" + text
			}
			if strings.HasPrefix(text, "address") || strings.HasPrefix(text, "[[") {
				text = "[[catalogue]]\naddress = \"/x\""
			}
			load(t, homeWith(t, text))
		}
	}
}

// A project's file counts only with exactly the content that was trusted.
func TestProjectTrust(t *testing.T) {
	ctx, now := context.Background(), time.Unix(1700000000, 0)
	c, dir := load(t, t.TempDir()), t.TempDir()
	if _, ok, err := c.ReadProject(dir); ok || err != nil {
		t.Fatal(ok, err)
	}
	file := filepath.Join(dir, ProjectFile)
	read := func(text string) Project {
		must(t, os.WriteFile(file, []byte(text), 0o644))
		p, ok, err := c.ReadProject(dir)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		return p
	}
	p := read("cpus = 1\n")
	for _, want := range []bool{true, false} {
		if changed, err := c.TrustProject(ctx, p, now); err != nil || changed != want {
			t.Fatal(changed, err)
		}
	}
	if !read("cpus = 1\n").Trusted || read("cpus = 2\n").Trusted {
		t.Error("trusted is not exactly what was trusted")
	}
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, ProjectFile), []byte("cpus = 1\n"), 0o644))
	if p, _, _ := c.ReadProject(other); p.Trusted {
		t.Error("the same content elsewhere is trusted")
	}
	if changed, err := c.DistrustProject(ctx, file); !changed || err != nil || read("cpus = 1\n").Trusted {
		t.Error(changed, err)
	}
	info, err := os.Stat(filepath.Join(c.Home, "projects.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	must(t, os.WriteFile(filepath.Join(c.Home, "projects.json"), []byte("{"), 0o600))
	if _, _, err := c.ReadProject(dir); fault.CodeOf(err) != fault.Trust {
		t.Errorf("a damaged list: %v", err)
	}
}

func TestProjectMayNot(t *testing.T) {
	c := load(t, t.TempDir())
	for _, text := range []string{
		"manifest = \"/x\"", "backend = \"qemu\"", "browser = \"ask\"", "[preset.codex]\ncredentials = [\"A\"]",
		"[preset.codex]\ncopy_back = true", "[[catalogue]]\naddress = \"/x\"", "git_identity = false", "huh = 1",
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, ProjectFile), []byte(text), 0o644))
		_, _, err := c.ReadProject(dir)
		wantUsage(t, err, ProjectFile)
	}
}

func TestVariables(t *testing.T) {
	c, err := Load([]string{"SMOLVM_HOME=" + t.TempDir(), "TOKEN=s3cret", "EMPTY="}, "")
	must(t, err)
	file := filepath.Join(t.TempDir(), "env")
	must(t, os.WriteFile(file, []byte("\ufeff# comment\r\n\nA=1\r\n  B=x # y\nC=\"q\"\nTOKEN\nA=2"), 0o600))
	got, err := c.Variables([]string{"B=flag", "D="}, []string{file})
	want := map[string]string{"A": "2", "B": "flag", "C": `"q"`, "D": "", "TOKEN": "s3cret"}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for entry, says := range map[string]string{
		"MISSING": "MISSING is not set", "EMPTY": "is not set", "": "0 characters", "=x": "0 characters",
		"A B=x": "not the name", "sk-verylongsecret=1": "not the name", "A=\x00": "not text",
	} {
		_, err := c.Variables([]string{entry}, nil)
		wantUsage(t, err, says)
		if strings.Contains(err.Error(), "longsecret") {
			t.Errorf("%q shows too much", err)
		}
	}
	if _, err := c.Variables(nil, []string{t.TempDir()}); err == nil {
		t.Error("a folder is accepted")
	}
	if _, err := c.Variables(nil, []string{"/nowhere"}); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("a missing file: %v", err)
	}
}
