package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeAll makes files with their folders, named from a folder on.
func writeAll(t *testing.T, folder string, texts map[string]string) {
	t.Helper()
	for name, text := range texts {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGitElsewhere mounts what the file .git of the current folder names where git in
// the sandbox looks for it, or says why that cannot work.
func TestGitElsewhere(t *testing.T) {
	const relative, submodule = "../repo/.git/worktrees/tree", "../repo/.git/modules/tree"
	for name, c := range map[string]struct {
		files map[string]string // HERE stands for the folder around
		flags string
		says  string
	}{
		"relative worktree": {
			map[string]string{"tree/.git": "gitdir: " + relative + "\n", "repo/.git/worktrees/tree/gitdir": "HERE/tree/.git\n"},
			"", "Mounted: HERE/repo/.git at /repo/.git",
		},
		"relative both ways": {
			map[string]string{"tree/.git": "gitdir: " + relative + "\n", "repo/.git/worktrees/tree/gitdir": "../../../../tree/.git\n"},
			"", "Mounted: HERE/repo/.git at /repo/.git",
		},
		"relative worktree at its own path": {
			map[string]string{"tree/.git": "gitdir: " + relative + "\n", "repo/.git/worktrees/tree/gitdir": "HERE/tree/.git\n"},
			"--mount-same-path", "Mounted: HERE/repo/.git at HERE/repo/.git",
		},
		"named, not mounted by itself": {
			map[string]string{"tree/.git": "gitdir: " + relative + "\n", "repo/.git/worktrees/tree/gitdir": "HERE/tree/.git\n"},
			"--mount .", "with --mount HERE/repo/.git:/repo/.git.",
		},
		"repository gone": {
			map[string]string{"tree/.git": "gitdir: HERE/repo/.git/worktrees/tree\n"},
			"", "git will not work at /workspace of the sandbox: its file .git names HERE/repo/.git/worktrees/tree, which is not there",
		},
		"repository of another": {
			map[string]string{"tree/.git": "gitdir: " + relative + "\n", "repo/.git/worktrees/tree/gitdir": "HERE/other/.git\n"},
			"", "which does not name HERE/tree in turn",
		},
		"submodule": {
			map[string]string{"tree/.git": "gitdir: " + submodule + "\n", "repo/.git/modules/tree/config": "[core]\n\tbare = false\n\tworktree = ../../../../tree\n"},
			"", "it is a submodule, whose repository HERE/repo/.git/modules/tree wants it at the path it has here; add --mount-same-path",
		},
		"submodule at its own path": {
			map[string]string{"tree/.git": "gitdir: " + submodule + "\n", "repo/.git/modules/tree/config": "[core]\n\tworktree = ../../../../tree\n"},
			"--mount-same-path", "Mounted: HERE/repo/.git/modules/tree at HERE/repo/.git/modules/tree",
		},
		"submodule of a worktree in other settings": {
			map[string]string{"tree/.git": "gitdir: " + submodule + "\n", "repo/.git/modules/tree/config": "[other]\n\tworktree = ../../../../tree\n"},
			"", "does not name HERE/tree in turn",
		},
	} {
		here := folder(t, "here")
		for path, text := range c.files {
			c.files[path] = strings.ReplaceAll(text, "HERE", here)
		}
		writeAll(t, here, c.files)
		w := onTerminal(t, filepath.Join(here, "tree"))
		w.app.Main(strings.Fields("claude start --no-attach " + c.flags))
		if says := strings.ReplaceAll(c.says, "HERE", here); !strings.Contains(w.errs.String(), says) {
			t.Errorf("%s: never said %q in %s", name, says, &w.errs)
		}
	}
}

// TestGitWithin says nothing where a mount has what the file .git names.
func TestGitWithin(t *testing.T) {
	for _, flags := range []string{"--mount .", "--mount . --mount-same-path"} {
		here := folder(t, "here")
		writeAll(t, here, map[string]string{".git": "gitdir: ./.bare\n", ".bare/HEAD": "ref: refs/heads/main\n"})
		w := onTerminal(t, here)
		w.app.Main(strings.Fields("claude start --no-attach " + flags))
		if strings.Contains(w.errs.String(), "git ") {
			t.Errorf("%s: %s", flags, &w.errs)
		}
	}
}
