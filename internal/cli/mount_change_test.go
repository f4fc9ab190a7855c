package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// answer is what a command does, each of which contains this.
type answer struct {
	status         int
	log, out, errs string
}

func (w *fakeWorld) says(t *testing.T, line string, want answer) {
	t.Helper()
	w.log = nil
	w.out.Reset()
	w.errs.Reset()
	status, log := w.app.Main(strings.Fields(line)), strings.Join(w.log, "\n")
	if status != want.status || !strings.Contains(log, want.log) || !strings.Contains(w.out.String(), want.out) ||
		!strings.Contains(w.errs.String(), want.errs) {
		t.Errorf("%s: status %d, log %s, out %s, said %s, want %+v", line, status, log, &w.out, &w.errs, want)
	}
}

func TestMountsAreAddedAndRemoved(t *testing.T) {
	for _, state := range []string{sandbox.Running, sandbox.Stopped} {
		lib, app := folder(t, "lib"), folder(t, "app")
		w := newWorld(t)
		w.add("box", state)
		s := w.boxes["box"]
		s.Mounts = []record.Mount{{Host: app, Guest: "/workspace"}}
		w.boxes["box"] = s
		when := map[string]string{sandbox.Running: "", sandbox.Stopped: ", from its next start on"}[state]
		w.says(t, "mount add box "+lib+":/lib/x:ro", answer{
			log:  "remount box add=[{" + lib + " /lib/x false true}] remove=[]",
			errs: "mounted " + lib + " at /lib/x, read-only" + when,
		})
		w.says(t, "mount list box", answer{out: "/lib/x      read-only   " + lib})
		w.says(t, "mount add box "+lib, answer{status: fault.Conflict.Exit(), errs: "something is mounted at /workspace"})
		w.says(t, "mount add box "+lib+":/workspace/none", answer{status: fault.Usage.Exit(), errs: "there is no such folder there"})
		if err := os.Mkdir(filepath.Join(app, "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
		w.says(t, "mount add box "+lib+":/workspace/inner", answer{errs: "mounted"})
		status := map[string]int{sandbox.Running: fault.Conflict.Exit()}[state]
		w.says(t, "mount remove box /workspace", answer{status: status, errs: map[string]string{
			sandbox.Running: "/workspace has the mount /workspace/inner in it", sandbox.Stopped: "removed",
		}[state]})
		w.says(t, "mount remove box /lib/x /workspace/inner", answer{errs: "removed " + lib + " at /lib/x"})
		w.says(t, "mount rm box /lib/x", answer{status: fault.NotFound.Exit(), errs: "nothing is mounted at /lib/x"})
	}
}

func TestMountOfNothing(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	w.says(t, "mount add box", answer{status: fault.Usage.Exit()})
	w.says(t, "mount add none .", answer{status: fault.NotFound.Exit()})
	w.says(t, "mount add box /none", answer{status: fault.NotFound.Exit(), errs: "/none does not exist"})
	w.says(t, "mount add box /tmp:/etc", answer{status: fault.Usage.Exit(), errs: "the sandbox needs its own /etc"})
	w.says(t, "mount list box --json", answer{out: `"mounts": []`})
}
