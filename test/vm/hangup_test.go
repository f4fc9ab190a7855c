//go:build vm

package vm_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// longAgent says that it works, and works for ever.
const longAgent = `#!/bin/sh
echo $$ >>/workspace/agents
echo "working as $$"
while :; do sleep 1; done
`

// keptSession is what info tells of a session.
type keptSession struct {
	Name, Title string
	Watchers    int
}

// sessions is what info says of a sandbox's sessions.
func (w *world) sessions(t *testing.T, name string) []keptSession {
	t.Helper()
	var envelope struct {
		Data struct{ Sessions []keptSession }
	}
	if err := json.Unmarshal([]byte(w.must(t, "info", name, "--json")), &envelope); err != nil {
		t.Fatal(err)
	}
	return envelope.Data.Sessions
}

// attached are the commands that show a sandbox's agent.
func (w *world) attached(name string) (pids []int) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		raw, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if err == nil && bytes.HasPrefix(raw, []byte(w.bin+"\x00attach\x00"+name+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(folder))
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestAttachedCommandIsGone: whatever becomes of the terminal, of the shell, or of
// the command itself, the agent in its session goes on, and attach gives it back.
// Without a terminal it ends with its client.
func TestAttachedCommandIsGone(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "hungup")
	w.plantAgent(t, name, longAgent)
	for ending, end := range map[string]func(*screen){
		"terminal closed": func(s *screen) { s.master.Close() },
		"shell killed":    func(s *screen) { _ = s.cmd.Process.Signal(syscall.SIGKILL) },
		"command killed": func(s *screen) {
			for _, pid := range w.attached(name) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		},
	} {
		s := w.onScreenBy(t, func(cmd *exec.Cmd) { // a shell that stays the command's parent
			cmd.Args = append([]string{"/bin/sh", "-c", `"$@"; exit 0`, "sh"}, cmd.Args...)
			cmd.Path = "/bin/sh"
		}, "attach", name)
		if _, err := s.until("working as [0-9]+", bound); err != nil {
			t.Fatal(err)
		}
		end(s)
		eventually(t, ending+": the command ends", func() bool { return len(w.attached(name)) == 0 })
		eventually(t, ending+": nobody watches the session", func() bool {
			all := w.sessions(t, name)
			return len(all) == 1 && all[0].Watchers == 0
		})
	}
	agents := strings.Fields(w.must(t, "exec", name, "--", "cat", "/workspace/agents"))
	if len(agents) != 1 {
		t.Fatalf("the agent was started as %v, want once", agents)
	}
	w.must(t, "exec", name, "--", "kill", "-0", agents[0])

	piped := w.command(t.Context(), "attach", name, "--", "more")
	if _, err := piped.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := piped.Start(); err != nil {
		t.Fatal(err)
	}
	again := func() []string { return strings.Fields(w.must(t, "exec", name, "--", "cat", "/workspace/agents")) }
	eventually(t, "an agent without a terminal runs", func() bool { return len(again()) == 2 })
	_ = piped.Process.Kill()
	_ = piped.Wait()
	second := again()[1]
	eventually(t, "it ends with its client", func() bool {
		return w.run(t, nil, "exec", name, "--", "kill", "-0", second).status != 0
	})
	w.must(t, "exec", name, "--", "kill", "-0", agents[0])
}

// TestDeleteWhileStarting: a sandbox that boots can be deleted; its start says what
// happened, and nothing is left.
func TestDeleteWhileStarting(t *testing.T) {
	w := theWorld
	w.common(t) // the image is here
	const name = "unborn"
	start := w.command(t.Context(), "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1")
	var said strings.Builder
	start.Stderr = &said
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.remove(name) })
	booting := func() bool {
		for _, p := range w.processes("") {
			if strings.Contains(p.args, "qemu-system") && names(p.args, name) {
				return true
			}
		}
		return false
	}
	eventually(t, "its machine runs", booting)
	w.must(t, "delete", name, "--yes")
	if err := start.Wait(); err == nil || !strings.Contains(said.String(), "stopped before it was ready") {
		t.Errorf("its start ended with %v: %s", err, &said)
	}
	if got := w.state(t, name); got != "" || booting() {
		t.Errorf("list has it as %q, its machine runs: %v", got, booting())
	}
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1") // the name is free
}
