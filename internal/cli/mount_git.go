package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/record"
)

// maxGitFile is more than the file .git of a worktree holds: one path.
const maxGitFile = 8 << 10

// missingGit gives the repository that a mounted git worktree belongs to, where
// that is outside of all mounts or not at the path that the worktree names; empty
// where git has all it needs.
func missingGit(m record.Mount, all []record.Mount) string {
	folder := gitFolder(m)
	if folder == "" || inside(folder, m.Host) {
		return ""
	}
	for _, other := range all {
		if other.Guest == other.Host && inside(folder, other.Host) {
			return ""
		}
	}
	return commonFolder(folder, m)
}

// withRepository adds the repository of a worktree that is mounted by itself. What
// cannot be mounted there is left to the notice that something is missing.
func (a *App) withRepository(m record.Mount, all []record.Mount) []record.Mount {
	common := missingGit(m, append([]record.Mount{m}, all...))
	if common == "" || allowedTarget(common) != nil || a.refuseCurrent(common) != nil {
		return all
	}
	repository := record.Mount{Guest: common}
	if a.locate(&repository, common) != nil || repository.Host != common || repository.File {
		return all
	}
	if beside(repository, append([]record.Mount{m}, all...)) != nil {
		return all
	}
	return append([]record.Mount{repository}, all...)
}

// gitFolder is the absolute path that the file .git of a worktree names.
func gitFolder(m record.Mount) string {
	if m.File {
		return ""
	}
	text, ok := strings.CutPrefix(readLine(filepath.Join(m.Host, ".git")), "gitdir: ")
	if !ok || !filepath.IsAbs(text) {
		return ""
	}
	return filepath.Clean(text)
}

// commonFolder is what a worktree's folder below .git/worktrees shares with the
// others. A sandbox may have written the worktree's .git, to have a folder mounted
// that is none of its business: only one that names the worktree in turn, as git
// has it, counts.
func commonFolder(folder string, m record.Mount) string {
	whole, err := filepath.EvalSymlinks(folder)
	back := readLine(filepath.Join(folder, "gitdir"))
	if err != nil || whole != folder || filepath.Base(filepath.Dir(folder)) != "worktrees" ||
		resolved(filepath.Dir(back)) != m.Host || filepath.Base(back) != ".git" {
		return ""
	}
	return filepath.Dir(filepath.Dir(folder))
}

// readLine is the one line of a small file, empty where there is none.
func readLine(path string) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxGitFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
