//go:build vm

package vm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// landed is a commit whose program starts sandboxes of the images that there are now.
const landed = "a74a68c"

// TestOlderSupervisorServesOn: a sandbox that an older program started goes on,
// and today's program does with it all that the older one could.
func TestOlderSupervisorServesOn(t *testing.T) {
	w := theWorld
	w.common(t) // the image is here
	then := &world{bin: buildProgram(t, landed, "build"), home: w.home, address: w.address, path: w.path, small: w.small}
	const name = "aged"
	if err := os.Remove(filepath.Join(w.home, "config.toml")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err) // other tests set what the older program has no settings for
	}
	then.must(t, "claude", "start", "-n", name, "--no-attach", "--memory", "1G", "--cpus", "1")
	t.Cleanup(func() { w.remove(name) })
	supervisor := w.supervisor(t, name)

	if got := w.must(t, "exec", name, "--", "sh", "-c", "cat; echo now"); got != "now\n" {
		t.Errorf("exec gave %q", got)
	}
	if r := w.run(t, nil, "exec", name, "--", "sh", "-c", "exit 7"); r.status != 7 {
		t.Errorf("exec handed back %+v", r)
	}
	if r := w.run(t, strings.NewReader("in"), "exec", name, "--", "tr", "a-z", "A-Z"); r.stdout != "IN" {
		t.Errorf("exec with input gave %+v", r)
	}
	if got := w.must(t, "ssh", name, "--", "echo", "by", "ssh"); got != "by ssh\n" {
		t.Errorf("ssh gave %q", got)
	}
	w.must(t, "exec", name, "--", "sh", "-c", "printf carried >/workspace/file")
	if got := w.must(t, "logs", name); !strings.Contains(got, "smolvm-guest") {
		t.Errorf("logs say %q", got)
	}
	if got := w.must(t, "attach", name, "--", "--version"); !strings.Contains(got, ".") {
		t.Errorf("its agent says %q", got)
	}
	if got := w.must(t, "list") + w.must(t, "info", name); !strings.Contains(got, name) {
		t.Errorf("list and info say\n%s", got)
	}
	if got := w.state(t, name); got != "running" {
		t.Errorf("list has it as %q", got)
	}
	w.must(t, "start", name, "--no-attach") // it runs, so nothing is done
	for _, newer := range [][]string{
		{"cp", name + ":/workspace/file", "-"}, {"rename", name, "young"}, {"port", "add", name, "80"},
	} {
		if r := w.run(t, nil, newer...); r.status == 0 || !strings.Contains(r.stderr, "another version of smolvm") || !strings.Contains(r.stderr, "Stop and start it") {
			t.Errorf("%v, which the older program had not: %+v", newer, r)
		}
	}
	if r := w.run(t, nil, "start", name, "--no-attach", "--keep=false"); r.status == 0 || !strings.Contains(r.stderr, "earlier smolvm") {
		t.Errorf("what the older program cannot do: %+v", r)
	}
	if now := w.supervisor(t, name); now != supervisor {
		t.Errorf("its supervisor was %d and is %d", supervisor, now)
	}
	w.must(t, "stop", name)
	w.must(t, "start", name, "--no-attach")
	if got := w.must(t, "exec", name, "--", "cat", "/workspace/file"); got != "carried" {
		t.Errorf("after its restart by today's program the file holds %q", got)
	}
	// The way back is not promised: that program knows no fields but its own.
}
