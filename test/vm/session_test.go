//go:build vm

package vm_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/test/terminal"
)

func TestExecHandsBackTheStatus(t *testing.T) {
	w := theWorld
	name := w.common(t)
	for script, want := range map[string]int{
		"exit 0": 0, "exit 1": 1, "exit 255": 255, "kill -9 $$": 137, "kill -TERM $$": 143,
	} {
		if got := w.run(t, nil, "exec", name, "--", "sh", "-c", script); got.status != want {
			t.Errorf("%q ended with %d, want %d; stderr %q", script, got.status, want, got.stderr)
		}
	}
	if got := w.run(t, nil, "exec", name, "--", "/no/such/program"); got.status != 127 {
		t.Errorf("a missing program ended with %d, want 127; stderr %q", got.status, got.stderr)
	}
	if got := w.run(t, nil, "exec", name, "--", "/etc/passwd"); got.status != 126 {
		t.Errorf("a file that is no program ended with %d, want 126; stderr %q", got.status, got.stderr)
	}
	if got := w.run(t, nil, "exec", "no-such-sandbox", "--", "true"); got.status != 125 {
		t.Errorf("a missing sandbox ended with %d, want 125; stderr %q", got.status, got.stderr)
	}
}

func TestExecPassesSignalsOn(t *testing.T) {
	w := theWorld
	name := w.common(t)
	cmd := w.command(t.Context(), "exec", name, "--", "sh", "-c",
		`trap 'echo caught; kill $!; exit 7' TERM; echo waiting; sleep 600 & wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("waiting\n"))
	if _, err := io.ReadFull(out, first); err != nil || string(first) != "waiting\n" {
		t.Fatalf("first output %q, %v", first, err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	rest, _ := io.ReadAll(out)
	cmd.Wait()
	if string(rest) != "caught\n" || cmd.ProcessState.ExitCode() != 7 {
		t.Fatalf("after SIGTERM: output %q, status %d; want \"caught\\n\", 7", rest, cmd.ProcessState.ExitCode())
	}
}

// Every signal that smolvm passes on arrives as what it is.
func TestExecPassesOtherSignalsOn(t *testing.T) {
	w := theWorld
	name := w.common(t)
	cmd := w.command(t.Context(), "exec", name, "--", "bash", "-c",
		`for s in USR1 USR2 ALRM CONT WINCH ABRT HUP; do trap "echo $s" $s; done; trap 'exit 3' QUIT; echo waiting; while :; do sleep 600 & wait $!; kill $!; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	heard := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("the program says %q, want %q", lines.Text(), want)
		}
	}
	heard("waiting")
	for _, sig := range []syscall.Signal{
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGABRT, syscall.SIGHUP, syscall.SIGUSR1,
	} {
		cmd.Process.Signal(sig)
		heard(strings.TrimPrefix(unix.SignalName(sig), "SIG"))
	}
	cmd.Process.Signal(syscall.SIGQUIT)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 3 {
		t.Errorf("status %d, want 3", got)
	}
}

func TestExecInputTerminalAndVariables(t *testing.T) {
	w := theWorld
	name := w.common(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-i=false", name, "cat"}, ""},
		{[]string{"-i", name, "cat"}, "one\ntwo"},
		{[]string{"-t", name, "sh", "-c", "test -t 0 && test -t 1 && stty -echo && echo ready && cat"}, "ready\r\none\r\ntwo"},
		{[]string{"-e", "A=b c", "-e", "EMPTY=", name, "sh", "-c", `echo "$A|${EMPTY-unset}"`}, "b c|\n"},
	} {
		r := w.run(t, strings.NewReader("one\ntwo"), append([]string{"exec"}, c.args...)...)
		got := r.stdout
		if strings.Contains(c.want, "ready") { // what came before stty is echoed
			got = got[max(0, strings.Index(got, "ready")):]
		}
		if r.status != 0 || got != c.want {
			t.Errorf("exec %q: status %d, %q, want %q; %s", c.args, r.status, got, c.want, r.stderr)
		}
	}
	if got := w.must(t, "exec", name, "--", "sh", "-c", `echo "${A-unset}"`); got != "unset\n" {
		t.Errorf("the variable of one command is there in another: %q", got)
	}
}

func TestTenMegabytesBothWays(t *testing.T) {
	w := theWorld
	name := w.common(t)
	data := make([]byte, 10<<20+7) // not a multiple of any block
	source := rand.NewChaCha8([32]byte{1})
	source.Read(data)
	got := w.run(t, bytes.NewReader(data), "exec", name, "--", "cat")
	if got.status != 0 || got.stdout != string(data) {
		t.Fatalf("status %d, %d bytes came back of %d, equal: %v; stderr %q",
			got.status, len(got.stdout), len(data), got.stdout == string(data), got.stderr)
	}
	sum := w.run(t, bytes.NewReader(data), "exec", name, "--", "sha256sum")
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256(data)); sum.stdout != want {
		t.Fatalf("the guest read %q, want %q", sum.stdout, want)
	}
}

func TestPipesStayApartWithoutATerminal(t *testing.T) {
	w := theWorld
	name := w.common(t)
	got := w.run(t, strings.NewReader("in"), "exec", name, "--", "sh", "-c", "cat; echo err >&2; test -t 0 || echo no-tty")
	if got.stdout != "inno-tty\n" || got.stderr != "err\n" {
		t.Fatalf("stdout %q, stderr %q", got.stdout, got.stderr)
	}
}

func TestSessionEnvironment(t *testing.T) {
	w := theWorld
	name := w.common(t)
	script := `echo "$USER $HOME $(id -u) $PWD"; echo "$PATH" | cut -d: -f1; sudo -n id -u; test -s "$SSL_CERT_FILE" && echo ca`
	want := "agent /home/agent 1000 /workspace\n/home/agent/.local/bin\n0\nca\n"
	if got := w.run(t, nil, "exec", name, "--", "sh", "-c", script); got.stdout != want {
		t.Fatalf("got %q, want %q; stderr %q", got.stdout, want, got.stderr)
	}
}

func TestTerminalSizeAndResize(t *testing.T) {
	w := theWorld
	name := w.common(t)
	master, slave := openPTY(t, 33, 101)
	cmd := w.command(t.Context(), "ssh", name,
		`stty size; trap 'stty size; kill $!; exit 5' WINCH; echo ready; sleep 600 & wait`)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	before := readUntil(t, master, "ready")
	if !strings.Contains(before, "33 101") {
		t.Errorf("the guest's terminal is %q, want 33 101", before)
	}
	if err := terminal.Resize(master, 50, 140); err != nil {
		t.Fatal(err)
	}
	after := readUntil(t, master, "50 140")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("after the resize: status %d, want 5; output %q", code, after)
	}
}

// openPTY opens a terminal that is closed when the test ends.
func openPTY(t *testing.T, rows, columns uint16) (master, slave *os.File) {
	t.Helper()
	master, slave, err := terminal.Open(rows, columns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	return master, slave
}

// readUntil reads the terminal until the text appears; the test's own time
// limit ends a read that never comes.
func readUntil(t *testing.T, from io.Reader, text string) string {
	t.Helper()
	var seen bytes.Buffer
	chunk := make([]byte, 4096)
	for !strings.Contains(seen.String(), text) {
		n, err := from.Read(chunk)
		seen.Write(chunk[:n])
		if err != nil {
			t.Fatalf("waiting for %q: %v; seen %q", text, err, seen.String())
		}
	}
	return seen.String()
}
