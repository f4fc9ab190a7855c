package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func pages(t *testing.T) map[string]string {
	t.Helper()
	all, err := newWorld(t).app.Manual(fakeTime)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, page := range all {
		if texts[page.Name] != "" {
			t.Errorf("there are two pages %s", page.Name)
		}
		texts[page.Name] = page.Text
	}
	return texts
}

// Every command and every flag is in the manual, in the page where people look.
func TestManualIsComplete(t *testing.T) {
	texts := pages(t)
	root, err := newRoot(newWorld(t).app)
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range root.Commands() {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		page := texts[pageOf(cmd)+".1"]
		if !strings.Contains(texts["smolvm.1"], literal.Replace(cmd.Name())) {
			t.Errorf("smolvm(1) does not name %s", cmd.Name())
		}
		for _, leaf := range leaves(cmd) {
			if cmd.GroupID == presetGroup && cmd.Name() != "claude-code" {
				continue // one of them stands for all
			}
			if !strings.Contains(page, literal.Replace(leaf.CommandPath())) {
				t.Errorf("%s.1 does not name %s", pageOf(cmd), leaf.CommandPath())
			}
			wantFlags(t, page, leaf.LocalNonPersistentFlags())
		}
	}
}

func wantFlags(t *testing.T, page string, set *pflag.FlagSet) {
	t.Helper()
	set.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden && !strings.Contains(page, literal.Replace("--"+f.Name)) {
			t.Errorf("flag --%s is not in the page", f.Name)
		}
	})
}

// The variables are those of docs/commands.md.
func TestManualNamesTheEnvironment(t *testing.T) {
	intro, err := os.ReadFile(filepath.Join("testdata", "commands-intro.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(intro), "## Environment\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var names []string
	for line := range strings.SplitSeq(table, "\n") {
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			names = append(names, name[:strings.Index(name, "`")])
		}
	}
	var ours []string
	for _, v := range environment {
		ours = append(ours, v.name)
	}
	if !slices.Equal(names, ours) {
		t.Errorf("docs/commands.md has %v, the manual %v", names, ours)
	}
}

// mandoc finds no error in any page, and man shows what the commands say.
func TestManualRenders(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed (package mandoc)")
	}
	dir := t.TempDir()
	for name, text := range pages(t) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// Style is about how it is written; warnings are about how it looks.
		if out, err := command(t, mandoc, "-T", "lint", "-W", "warning", path); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	out, err := command(t, mandoc, "-T", "ascii", "-O", "width=100", filepath.Join(dir, "smolvm-exec.1"))
	plain := strings.ReplaceAll(overstrike(out), "\n", " ")
	for _, want := range []string{"smolvm exec [FLAGS] NAME [--] COMMAND [ARG...]", "SMOLVM-EXEC(1)", "2026-03-04"} {
		if err != nil || !strings.Contains(plain, want) {
			t.Errorf("no %q in the page: %v\n%s", want, err, plain)
		}
	}
}

func command(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput()
	return string(out), err
}

// overstrike takes bold and underlined letters as plain ones.
func overstrike(text string) string {
	letters := []rune(text)
	for at := slices.Index(letters, '\b'); at > 0; at = slices.Index(letters, '\b') {
		letters = slices.Delete(letters, at-1, at+1)
	}
	return string(letters)
}

// No text of a command can become a command of the page's language.
func TestRoffIsLiteral(t *testing.T) {
	r := &roff{}
	r.prose(".so /etc/passwd\n'hi' \\n \\fB\n  .nf\n\n.PP")
	for line := range strings.SplitSeq(r.out.String(), "\n") {
		if strings.HasPrefix(line, ".so") || strings.HasPrefix(line, "'") || strings.Contains(line, `\n`) || strings.Contains(line, `\fB`) {
			t.Errorf("%q is a command", line)
		}
	}
	if !strings.Contains(r.out.String(), "\\&.so /etc/passwd\n\\(aqhi\\(aq \\en \\efB\n.PP\n.RS 4\n.nf\n\\&.nf\n.fi\n.RE\n.PP\n\\&.PP\n") {
		t.Errorf("got %q", r.out.String())
	}
}
