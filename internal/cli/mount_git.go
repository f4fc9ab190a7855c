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
	return commonFolder(folder)
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
// others.
func commonFolder(folder string) string {
	common := readLine(filepath.Join(folder, "commondir"))
	switch {
	case common == "":
		return folder
	case filepath.IsAbs(common):
		return filepath.Clean(common)
	}
	return filepath.Join(folder, common)
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
