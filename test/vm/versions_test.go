//go:build vm

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// older is an early commit whose program reads the catalogues of today.
const older = "48bc40a"

// buildProgram builds a commit's program from the repository's history: a target of
// its Makefile, which has the guest agents in it.
func buildProgram(t *testing.T, commit, target string) string {
	t.Helper()
	dir := t.TempDir()
	script := `git archive "$0" | tar -x -C "$1" && { [ ! -d dist/dev ] || { mkdir -p "$1/dist" && cp -r dist/dev "$1/dist/"; }; } && cd "$1" && make "$2"`
	if err := exec.CommandContext(t.Context(), "git", "-C", "../..", "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		t.Skipf("the history lacks commit %s", commit)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script, commit, dir, target)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	return filepath.Join(dir, "bin", "smolvm")
}

// TestTwoVersionsShareACache has an older program and this one pull, list, end
// early and prune in one cache.
func TestTwoVersionsShareACache(t *testing.T) {
	needLong(t)
	random, s := dice(t), newSite(t)
	now := s.world(t)
	then := &world{bin: buildProgram(t, older, "build"), home: now.home, address: now.address, path: now.path}
	both := map[string]*world{"older": then, "newer": now}
	right := func(when string) {
		t.Helper()
		for name, w := range both {
			before := s.total()
			w.must(t, s.pull()...)
			if sent := s.total() - before; sent != 0 {
				t.Errorf("%s: the %s program downloaded %d bytes again", when, name, sent)
			}
			if releases := w.listed(t); len(releases) == 0 {
				t.Errorf("%s: the %s program lists no image", when, name)
			}
		}
		if text := s.wrong(t, now); text != "" {
			t.Errorf("%s: %s", when, text)
		}
		now.must(t, s.args("image", "verify")...)
	}
	empty := func() { now.must(t, s.args("prune", "--all", "--yes")...) }

	for name, w := range both {
		empty()
		w.must(t, s.pull()...)
		right("pulled by the " + name)
	}
	for range 5 {
		empty()
		var group sync.WaitGroup
		for _, w := range []*world{now, then, now, then} {
			group.Go(func() {
				if got := w.run(t, nil, s.pull()...); got.status != 0 {
					t.Errorf("one of both at once ended with %d: %s", got.status, got.stderr)
				}
			})
		}
		group.Wait()
		right("pulled by both at once")
	}
	for name, w := range both {
		empty()
		cmd := w.command(t.Context(), s.pull()...)
		started := make(chan struct{})
		s.at(random.Int64N(4<<20), func() { <-started; _ = cmd.Process.Kill() })
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		close(started)
		_ = cmd.Wait()
		then.must(t, s.pull()...)
		right("a pull by the " + name + " was killed")
	}
	empty()
	for _, path := range look(t, now.home).paths {
		if strings.HasPrefix(path, "store/objects/") || strings.HasPrefix(path, "images/") || strings.HasPrefix(path, "store/tmp/") {
			t.Errorf("left after a prune of everything: %s", path)
		}
	}
}
