//go:build vm

package vm_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestUnusedSandboxStops: a sandbox stops some time after its last use, not while
// it is used, with its files kept and its agent's renewed login saved.
func TestUnusedSandboxStops(t *testing.T) {
	home := user(t)
	w := theWorld.as(t, home, "SMOLVM_IDLE_STOP=4s")
	w.must(t, "config", "set", "preset.claude.credentials", "~/.claude/.credentials.json")
	w.must(t, "config", "set", "preset.claude.copy_back", "true")
	t.Cleanup(func() {
		for _, key := range []string{"credentials", "copy_back"} {
			if err := w.command(context.Background(), "config", "unset", "preset.claude."+key).Run(); err != nil {
				t.Error(err)
			}
		}
	})
	const name = "unused"
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--keep", "--memory", "1G", "--cpus", "1")
	t.Cleanup(func() { w.remove(name) })
	w.plantAgent(t, name, fakeAgent)
	time.Sleep(6 * time.Second)
	if got := w.unused(t, name); got.State != "running" || !got.Keep || got.Idle.Stops != nil {
		t.Fatalf("with --keep: %+v", got)
	}
	// What renews the login here is no session of the agent's, at whose end the
	// command would save it.
	w.must(t, "exec", name, "--", "/home/agent/.local/bin/claude", "-", "renew", secretNew)
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f")
	w.must(t, "start", name, "--no-attach", "--keep=false")
	w.must(t, "exec", name, "--", "sleep", "7")
	if got := w.unused(t, name); got.State != "running" || got.Idle.AfterSeconds != 4 {
		t.Fatalf("after a program that ran longer than its time: %+v", got)
	}
	eventually(t, "the unused sandbox stops", func() bool { return w.state(t, name) == "stopped" })
	if got := w.unused(t, name); !got.StoppedIdle || got.LastError != "" {
		t.Errorf("stopped: %+v", got)
	}
	if raw, err := os.ReadFile(filepath.Join(home, ".claude/.credentials.json")); string(raw) != `{"token":"`+secretNew+`"}` {
		t.Errorf("the host's login is %s, %v", raw, err)
	}
	w.must(t, "start", name, "--no-attach")
	if got := w.must(t, "exec", name, "--", "cat", "/workspace/f"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
}

// idleState is what list says of the end of a sandbox that nobody uses.
type idleState struct {
	Name, State string
	Keep        bool
	StoppedIdle bool   `json:"stopped_idle"`
	LastError   string `json:"last_error"`
	Idle        struct {
		AfterSeconds float64 `json:"after_seconds"`
		Stops        *time.Time
		Reason       string
	}
}

func (w *world) unused(t *testing.T, name string) idleState {
	t.Helper()
	var envelope struct{ Data []idleState }
	if err := json.Unmarshal([]byte(w.must(t, "list", "--json")), &envelope); err != nil {
		t.Fatal(err)
	}
	for _, s := range envelope.Data {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no %s", name)
	return idleState{}
}
