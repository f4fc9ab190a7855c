package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/record"
)

// project makes a folder with a file and a folder, and makes it the current one.
func project(t *testing.T, w *fakeWorld) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "data/inner"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("data", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	w.app.Directory = dir
	return dir
}

func TestMountsAreDecided(t *testing.T) {
	for _, c := range []struct {
		line     string
		terminal bool
		want     []record.Mount // Host below the project
	}{
		{line: ""},
		{line: "", terminal: true, want: []record.Mount{{Guest: "/workspace"}}},
		{line: "--no-mount", terminal: true},
		{line: "--mount .", want: []record.Mount{{Guest: "/workspace"}}},
		{line: "--mount data", terminal: true, want: []record.Mount{{Host: "data", Guest: "/workspace"}}},
		{line: "--mount link::ro", want: []record.Mount{{Host: "data", Guest: "/workspace", ReadOnly: true}}},
		{line: "--mount data:/srv/data/:rw", want: []record.Mount{{Host: "data", Guest: "/srv/data"}}},
		{
			line: "--mount file:/etc/agent.conf:ro --mount data:/data", terminal: true,
			want: []record.Mount{
				{Guest: "/workspace"},
				{Host: "data", Guest: "/data"},
				{Host: "file", Guest: "/etc/agent.conf", File: true, ReadOnly: true},
			},
		},
		{
			line: "--mount file:/workspace/data/inner --mount data:/workspace/data:ro --mount .",
			want: []record.Mount{
				{Guest: "/workspace"},
				{Host: "data", Guest: "/workspace/data", ReadOnly: true},
				{Host: "file", Guest: "/workspace/data/inner", File: true},
			},
		},
	} {
		w := newWorld(t)
		dir := project(t, w)
		w.app.Streams.InTTY = c.terminal
		if status := w.app.Main(strings.Fields("claude start --no-attach " + c.line)); status != 0 {
			t.Errorf("%s: status %d: %s", c.line, status, &w.errs)
			continue
		}
		for i := range c.want {
			c.want[i].Host = filepath.Join(dir, c.want[i].Host)
		}
		if diff := cmp.Diff(c.want, w.created[0].Mounts); diff != "" {
			t.Errorf("%s: %s", c.line, diff)
		}
		for _, m := range c.want {
			if notice := "Mounted: " + m.Host + " at " + m.Guest; !strings.Contains(w.errs.String(), notice) {
				t.Errorf("%s: never said %q in %s", c.line, notice, &w.errs)
			}
		}
	}
}

func TestSamePath(t *testing.T) {
	w := newWorld(t)
	dir := project(t, w)
	w.app.Streams.InTTY = true
	if status := w.app.Main([]string{"claude", "start", "--no-attach", "--mount-same-path"}); status != 0 {
		t.Fatal(status, &w.errs)
	}
	mounts := w.created[0].Mounts
	if diff := cmp.Diff([]record.Mount{{Host: dir, Guest: dir}}, mounts); diff != "" {
		t.Error(diff)
	}
	if got := startFolder(mounts); got != dir {
		t.Errorf("the agent starts in %q", got)
	}
}

// TestMountsAreRefused checks that nothing is downloaded, nor anything asked of
// the catalogue, for mounts that cannot be.
func TestMountsAreRefused(t *testing.T) {
	for line, says := range map[string]string{
		"--mount missing":                            "missing does not exist",
		"--mount data:workspace":                     "not an absolute path in the sandbox",
		"--mount data:/":                             "the sandbox needs its own /",
		"--mount data:/opt":                          "the sandbox needs its own /opt",
		"--mount data:/usr/bin/":                     "the sandbox needs its own /usr/bin",
		"--mount data:/x/../etc":                     "the sandbox needs its own /etc",
		"--mount data:/proc/x":                       "nothing can be mounted below /proc",
		"--mount data:/data:rx":                      "cannot be read",
		"--mount data:/a:ro:b":                       "cannot be read",
		"--mount :/data":                             "no folder or file is named",
		"--mount file":                               "a file needs a path",
		"--mount data --mount .":                     "would both be mounted at /workspace",
		"--mount . --no-mount":                       "excludes",
		"--mount-same-path":                          "not on a terminal",
		"--mount . --mount data:/workspace/new":      "there is no such folder there",
		"--mount . --mount file:/workspace/data":     "there is no such file there",
		"--mount . --mount data:/workspace/file":     "there is no such folder there",
		"--mount /dev/null:/data":                    "neither a folder nor a file",
		"--mount data:/" + strings.Repeat("x", 2000): "too long",
	} {
		w := newWorld(t)
		project(t, w)
		status := w.app.Main(strings.Fields("claude start --no-attach " + line))
		if status == 0 || !strings.Contains(w.errs.String(), says) {
			t.Errorf("%.60s: status %d: %s", line, status, &w.errs)
		}
		if len(w.log) != 0 || len(w.created) != 0 {
			t.Errorf("%.60s: did %v", line, w.log)
		}
	}
}

func TestCurrentFolderThatIsTooMuch(t *testing.T) {
	for _, c := range []struct{ folder, home, own, says string }{
		{"/", "/root", "/root/.smolvm", "is /"},
		{"HERE", "HERE", "/else", "your home folder"},
		{"HERE", "HERE/data", "/else", "your home folder"},
		{"HERE/data", "/else", "HERE", "SmolVM's own files"},
		{"HERE", "/else", "HERE/data", "SmolVM's own files"},
	} {
		w := newWorld(t)
		dir := project(t, w)
		here := func(path string) string { return strings.Replace(path, "HERE", dir, 1) }
		w.app.Directory, w.app.UserHome = here(c.folder), here(c.home)
		w.app.rooms = w.rooms(here(c.own))
		w.app.Streams.InTTY = true
		line := []string{"claude", "start", "--no-attach"}
		if status := w.app.Main(line); status != 125 || !strings.Contains(w.errs.String(), c.says) || len(w.log) != 0 {
			t.Errorf("%+v: status %d, %v: %s", c, status, w.log, &w.errs)
		}
		if c.folder == "/" {
			continue
		}
		if status := w.app.Main(append(line, "--mount", ".")); status != 0 {
			t.Errorf("%+v, named: status %d: %s", c, status, &w.errs)
		}
	}
}

// TestWorktree says what git will miss in a worktree.
func TestWorktree(t *testing.T) {
	repository := folder(t, "repository")
	own := filepath.Join(repository, ".git", "worktrees", "tree")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	tree := folder(t, "tree")
	for path, text := range map[string]string{
		filepath.Join(tree, ".git"):     "gitdir: " + own + "\n",
		filepath.Join(own, "commondir"): "../..\n",
		filepath.Join(own, "gitdir"):    filepath.Join(tree, ".git") + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	common := filepath.Join(repository, ".git")
	for flags, told := range map[string]bool{
		"--mount .":                                       true,
		"--mount . --mount " + common + ":/git":           true,
		"--mount . --mount " + common + ":" + common:      false,
		"--mount . --mount " + repository + " --no-mount": false,
	} {
		w := newWorld(t)
		w.app.Directory = tree
		w.app.Main(strings.Fields("claude start --no-attach " + flags))
		if got := strings.Contains(w.errs.String(), "--mount "+common+":"+common); got != told {
			t.Errorf("%s: told %v, want %v: %s", flags, got, told, &w.errs)
		}
	}
}

// TestWorktreeOfTheCurrentFolder mounts its repository too, unless that is not
// what the worktree belongs to.
func TestWorktreeOfTheCurrentFolder(t *testing.T) {
	repository, tree := folder(t, "repository"), folder(t, "tree")
	common := filepath.Join(repository, ".git")
	own := filepath.Join(common, "worktrees", "tree")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		named, back string // what either says of the other
		mounted     bool
	}{
		{own, filepath.Join(tree, ".git"), true},
		{own, filepath.Join(repository, ".git"), false},
		{own, "", false},
		{common, filepath.Join(tree, ".git"), false},
	} {
		for path, text := range map[string]string{
			filepath.Join(tree, ".git"): "gitdir: " + c.named + "\n", filepath.Join(own, "gitdir"): c.back + "\n",
		} {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		w := onTerminal(t, tree)
		w.app.Main(strings.Fields("claude start --no-attach"))
		if got := strings.Contains(w.errs.String(), "Mounted: "+common+" at "+common); got != c.mounted {
			t.Errorf("%+v: %s", c, &w.errs)
		}
	}
}
