//go:build vm

package vm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// tmux is the terminal that people have: its panes are drawn by a program that is
// neither ours nor the library that keeps a session's screen.
type tmux struct {
	w      *world
	socket string
}

// pane is one terminal of tmux, with a command of the program on it.
type pane struct {
	tmux tmux
	id   string
}

const tmuxSettings = `
set -g status off
set -g default-size 110x30
set -g default-terminal tmux-256color
set -s escape-time 0
`

// newTmux begins a server of its own, which ends with the test.
func newTmux(t *testing.T, w *world) tmux {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("this computer has no tmux")
	}
	dir, err := os.MkdirTemp("", "smolvm-tmux-") // a test's own may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	settings := filepath.Join(dir, "conf")
	if err := os.WriteFile(settings, []byte(tmuxSettings), 0o600); err != nil {
		t.Fatal(err)
	}
	m := tmux{w, filepath.Join(dir, "s")}
	m.do(t, "-f", settings, "new-session", "-d", "-s", "people", "tail", "-f", "/dev/null") // keeps the server
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", m.socket, "kill-server").Run() })
	return m
}

// do has the server do something, and gives what it says.
func (m tmux) do(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tmux", append([]string{"-S", m.socket, "-u"}, args...)...)
	cmd.Env = m.w.command(t.Context()).Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// open runs a command of the program on a new terminal, in a shell that says how it
// ended.
func (m tmux) open(t *testing.T, args ...string) pane {
	t.Helper()
	shell := []string{"sh", "-c", `"$@"; echo "[status $?]"; read line`, "sh", m.w.bin}
	id := m.do(t, append(append([]string{"new-window", "-d", "-t", "people:", "-P", "-F", "#{pane_id}"}, shell...), args...)...)
	return pane{m, strings.TrimSpace(id)}
}

// text is what the terminal shows.
func (p pane) text(t *testing.T) string {
	t.Helper()
	return trimmed(p.tmux.do(t, "capture-pane", "-p", "-t", p.id))
}

// keys types keys as tmux names them: words that are no names are typed as they are.
func (p pane) keys(t *testing.T, keys ...string) {
	t.Helper()
	p.tmux.do(t, append([]string{"send-keys", "-t", p.id}, keys...)...)
}

func (p pane) resize(t *testing.T, columns, rows int) {
	t.Helper()
	p.tmux.do(t, "resize-window", "-t", p.id, "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows))
}

// until waits until the terminal shows the expression, and gives what it shows then.
func (p pane) until(t *testing.T, expression string) string {
	t.Helper()
	pattern := regexp.MustCompile(expression)
	deadline := time.Now().Add(bound)
	for {
		text := p.text(t)
		if pattern.MatchString(text) {
			return text
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %q; the terminal shows\n%s", bound, expression, text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// ended waits until the command has ended, and closes the terminal.
func (p pane) ended(t *testing.T, status int, says string) {
	t.Helper()
	text := p.until(t, `\[status \d+\]`)
	if !strings.Contains(text, fmt.Sprintf("[status %d]", status)) || !strings.Contains(text, says) {
		t.Errorf("the command should have ended with status %d and %q; the terminal shows\n%s", status, says, text)
	}
	p.tmux.do(t, "kill-pane", "-t", p.id)
}

// detach leaves the session by the keys that the documentation names.
func (p pane) detach(t *testing.T) {
	t.Helper()
	p.keys(t, "C-p", "C-q")
	p.ended(t, 0, "Detached: the agent goes on.")
}
