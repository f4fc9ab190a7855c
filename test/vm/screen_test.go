//go:build vm

package vm_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
)

// Size of the terminals, so large that agents leave nothing out.
const screenRows, screenColumns = 45, 110

// screen is a terminal on which a command of the program runs, and what a person
// sees there: a terminal emulator also answers what agents ask their terminal.
type screen struct {
	cmd     *exec.Cmd
	master  *os.File // the terminal
	replies sync.WaitGroup

	mu       sync.Mutex
	emulator *vt.Emulator
}

// onScreen runs a command on a terminal. It is killed when the test ends.
func (w *world) onScreen(t *testing.T, args ...string) *screen {
	t.Helper()
	return w.onScreenIn(t, t.TempDir(), args...)
}

// onScreenIn does it in a directory.
func (w *world) onScreenIn(t *testing.T, directory string, args ...string) *screen {
	t.Helper()
	return w.onScreenBy(t, func(cmd *exec.Cmd) { cmd.Dir = directory }, args...)
}

// onScreenBy does it after the command was changed.
func (w *world) onScreenBy(t *testing.T, change func(*exec.Cmd), args ...string) *screen {
	t.Helper()
	master, slave := openPTY(t, screenRows, screenColumns)
	s := &screen{cmd: w.command(t.Context(), args...), master: master, emulator: vt.NewEmulator(screenColumns, screenRows)}
	change(s.cmd)
	s.cmd.Env = append(s.cmd.Env, "TERM=xterm-256color")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	s.replies.Go(func() { _, _ = io.Copy(master, s.emulator) })
	s.replies.Go(func() { s.draw(master) })
	t.Cleanup(func() { s.close(); master.Close(); s.replies.Wait() })
	return s
}

func (s *screen) draw(from io.Reader) {
	chunk := make([]byte, 32<<10)
	for {
		n, err := from.Read(chunk)
		s.mu.Lock()
		_, _ = s.emulator.Write(chunk[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// close ends the command; the sandbox goes on.
func (s *screen) close() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = s.emulator.Close()
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.emulator.String()
}

// until waits until the screen shows the expression, and rests for as long as an
// agent may take to put a question over its first screen.
func (s *screen) until(expression string, patience time.Duration) (string, error) {
	pattern := regexp.MustCompile(expression)
	for deadline := time.Now().Add(patience); !pattern.MatchString(s.text()); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			return "", fmt.Errorf("not within %v: %q; the screen shows\n%s", patience, expression, trimmed(s.text()))
		}
	}
	time.Sleep(2 * time.Second)
	return trimmed(s.text()), nil
}

// trimmed is a screen without its empty lines.
func trimmed(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \r\n"); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
