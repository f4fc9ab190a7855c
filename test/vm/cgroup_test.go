//go:build vm

package vm_test

import (
	"bytes"
	"context"
	"testing"
	"time"
)

// giveGroup makes a control group as root of a guest and gives it to the user, who then
// runs a program in it: in it alone, or in a group below, where others could be.
const giveGroup = `
set -e
echo "+memory +pids +cpu" >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/$1
own() { chown agent $1 $1/cgroup.procs $1/cgroup.threads $1/cgroup.subtree_control; }
own /sys/fs/cgroup/${1%%/*}
own /sys/fs/cgroup/$1
echo $$ >/sys/fs/cgroup/$1/cgroup.procs
cd /workspace/group
shift
export HOME=/home/agent TMPDIR=/workspace/group/tmp
exec setpriv --reuid agent --regid agent --init-groups "$@"
`

// TestControlGroups takes the tests of internal/cgroup, and those of a supervisor that
// uses it, into a sandbox, whose kernel has control groups of version 2, and runs them
// there as an ordinary user who was given a group.
func TestControlGroups(t *testing.T) {
	w := theWorld
	const name = "groups"
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "2")
	t.Cleanup(func() { w.remove(name) })
	w.must(t, "exec", name, "--", "mkdir", "-p", "/workspace/group/tmp")
	w.give(t, name, compiled(t, "../../internal/cgroup"), "/workspace/group/cgroup.test")
	w.give(t, name, compiled(t, "../../internal/sandbox"), "/workspace/group/sandbox.test")

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, run := range [][]string{
		{"given", "./cgroup.test", "-test.v", "-test.run", "^Test(Memory|Processes|Processors|StartsInside|RemoveEnds|Sweep)$"},
		{"shared/login", "./sandbox.test", "-test.v", "-test.run", "^TestControlGroup"},
	} {
		cmd := w.command(ctx, append([]string{"exec", name, "--", "sudo", "sh", "-c", giveGroup, "sh"}, run...)...)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil || !bytes.Contains(out, []byte("--- PASS")) || bytes.Contains(out, []byte("--- SKIP")) {
			t.Errorf("%q in a guest: %v", run, err)
		}
	}
}
