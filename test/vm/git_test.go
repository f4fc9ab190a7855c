//go:build vm

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// git runs git of this computer in a folder.
func git(t *testing.T, folder string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{
		"-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always",
	}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// TestGitElsewhere starts in folders whose file .git names a repository outside: git
// works in the sandbox, as the agent and as root, who owns none of it.
func TestGitElsewhere(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip(err)
	}
	w := theWorld
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	whole, tree := filepath.Join(top, "whole"), filepath.Join(top, "tree")
	part := filepath.Join(top, "part")
	for _, folder := range []string{whole, part} {
		git(t, top, "init", "-q", "-b", "main", folder)
		git(t, folder, "commit", "-q", "--allow-empty", "-m", "one")
	}
	git(t, whole, "submodule", "--quiet", "add", part, "inner")
	git(t, whole, "worktree", "add", "-q", tree)
	// as git 2.48 writes it with worktree.useRelativePaths, but for the mark that older ones refuse
	if err := os.WriteFile(filepath.Join(tree, ".git"), []byte("gitdir: ../whole/.git/worktrees/tree\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, folder, at string
		flags            []string
	}{
		{"worktree", tree, "/workspace", nil},
		{"submodule", filepath.Join(whole, "inner"), filepath.Join(whole, "inner"), []string{"--mount-same-path"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Cleanup(func() { w.remove(c.name) })
			w.startIn(t, c.folder, `\(Claude Code\)`, append([]string{"-n", c.name, "--memory", "1G"}, c.flags...)...)
			if err := os.WriteFile(filepath.Join(c.folder, "new"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			for _, user := range []string{"agent", "root"} {
				got := w.must(t, "exec", "-u", user, "-w", c.at, c.name, "--", "git", "status", "--porcelain")
				if !strings.Contains(got, "?? new\n") {
					t.Errorf("git of %s says %q", user, got)
				}
			}
			w.must(t, "exec", "-w", c.at, c.name, "--", "sh", "-ec", "git add new; git -c user.name=a -c user.email=a@b commit -qm two")
			git(t, c.folder, "cat-file", "-e", "HEAD:new")
		})
	}
}
