package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/record"
)

// maxGitFile is more than the file .git of a worktree holds, one path, and than the
// configuration of a submodule does.
const maxGitFile = 64 << 10

// gitLink is a folder that the file .git of a mount names: the repository of a
// submodule, or what a worktree has of its own in one.
type gitLink struct {
	mount record.Mount
	here  string // on this computer
	there string // where git in the sandbox looks for it
}

// gitNeed is what git lacks in a mount: a mount that lets it work, or the reason why
// none does. Both are empty where nothing is lacking.
type gitNeed struct {
	mount record.Mount
	why   string
}

// text says it to the user.
func (n gitNeed) text(m record.Mount) string {
	if n.why != "" {
		return fmt.Sprintf("git will not work at %s of the sandbox: %s.", m.Guest, n.why)
	}
	return fmt.Sprintf("%s belongs to a git repository that is not mounted: git works in the sandbox with --mount %s:%s.",
		m.Host, n.mount.Host, n.mount.Guest)
}

// missingGit gives what git needs in a mounted worktree or submodule besides it. A
// sandbox may have written the file .git, to have a folder mounted that is none of
// its business: only one that names the mount in turn, as git has it, counts.
func missingGit(m record.Mount, all []record.Mount) (gitNeed, bool) {
	l, ok := linkOf(m)
	if !ok || l.reached(all) {
		return gitNeed{}, false
	}
	whole, err := filepath.EvalSymlinks(l.here)
	if err != nil {
		return gitNeed{why: fmt.Sprintf("its file .git names %s, which is not there", l.here)}, true
	}
	if tree := worktreeOf(whole); tree == m.Host {
		return l.submodule(whole), true
	}
	back := within(whole, readText(filepath.Join(whole, "gitdir")))
	if filepath.Base(filepath.Dir(whole)) != "worktrees" || filepath.Base(filepath.Dir(l.there)) != "worktrees" ||
		resolved(filepath.Dir(back)) != m.Host || filepath.Base(back) != ".git" {
		return gitNeed{why: fmt.Sprintf("its file .git names %s, which does not name %s in turn; git worktree repair in the repository mends that", l.here, m.Host)}, true
	}
	return gitNeed{mount: record.Mount{Host: filepath.Dir(filepath.Dir(whole)), Guest: filepath.Dir(filepath.Dir(l.there))}}, true
}

// linkOf reads the file .git of a mount, if it has one.
func linkOf(m record.Mount) (gitLink, bool) {
	if m.File {
		return gitLink{}, false
	}
	named, ok := strings.CutPrefix(readText(filepath.Join(m.Host, ".git")), "gitdir: ")
	return gitLink{m, within(m.Host, named), within(m.Guest, named)}, ok && named != ""
}

// within is a path as somebody in a folder means it.
func within(folder, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(folder, path)
}

// reached says whether one of the mounts has the folder where git looks for it.
func (l gitLink) reached(all []record.Mount) bool {
	for _, m := range append([]record.Mount{l.mount}, all...) {
		rel, err := filepath.Rel(m.Guest, l.there)
		if err == nil && filepath.IsLocal(rel) && filepath.Join(m.Host, rel) == l.here {
			return true
		}
	}
	return false
}

// submodule mounts the repository of a submodule, which names where its files are:
// they have to be there in the sandbox as well.
func (l gitLink) submodule(whole string) gitNeed {
	if within(l.there, coreWorktree(whole)) == l.mount.Guest {
		return gitNeed{mount: record.Mount{Host: whole, Guest: l.there}}
	}
	return gitNeed{why: fmt.Sprintf("it is a submodule, whose repository %s wants it at the path it has here; add --mount-same-path, or mount the whole project", l.here)}
}

// worktreeOf is the folder with the files of a repository that is elsewhere, without
// links; empty where the repository names none.
func worktreeOf(repository string) string {
	named := coreWorktree(repository)
	if named == "" {
		return ""
	}
	return resolved(within(repository, named))
}

// coreWorktree is what git's core.worktree says in a repository's own settings.
func coreWorktree(repository string) (named string) {
	section := ""
	for line := range strings.Lines(readText(filepath.Join(repository, "config"))) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.ToLower(line)
		}
		key, value, _ := strings.Cut(line, "=")
		if section == "[core]" && strings.EqualFold(strings.TrimSpace(key), "worktree") {
			named = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return named
}

// withRepository adds the repository of a worktree or submodule that is mounted by
// itself. What cannot be mounted there is left to the notice that something is
// missing.
func (a *App) withRepository(m record.Mount, all []record.Mount) []record.Mount {
	need, _ := missingGit(m, all)
	repository := need.mount
	if repository.Host == "" || allowedTarget(repository.Guest) != nil || a.refuseCurrent(repository.Host) != nil {
		return all
	}
	host := repository.Host
	if a.locate(&repository, host) != nil || repository.Host != host || repository.File {
		return all
	}
	if beside(repository, append([]record.Mount{m}, all...)) != nil {
		return all
	}
	return append([]record.Mount{repository}, all...)
}

// readText is a small file without the space around it, empty where there is none.
func readText(path string) string {
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
