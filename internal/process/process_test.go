package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// roleVariable tells the test binary to be another program.
const roleVariable = "PROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "parent": // starts a bound child, says its pid, waits
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"=sleeper")
		cmd.Stdin = os.Stdin
		child, err := StartBound(cmd)
		if err != nil {
			os.Exit(1)
		}
		_, _ = os.Stdout.WriteString(strconv.Itoa(child.Pid()) + "\n")
		_ = child.Wait()
	case "opener": // says whether a program it starts gets the file that it was given
		HideInherited()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"=given")
		cmd.Stdout = os.Stdout
		_ = cmd.Run()
	case "given": // says whether it has the file open; the Go runtime has some of its own
		want, _ := os.Stat(os.Getenv("PROCESS_TEST_FILE"))
		got, err := os.NewFile(3, "given").Stat()
		_, _ = os.Stdout.WriteString(strconv.FormatBool(err == nil && os.SameFile(got, want)))
	case "sleeper":
		_, _ = os.Stdin.Read(make([]byte, 1)) // the test keeps it open
	}
}

// folder makes a folder with a script under each name.
func folder(t *testing.T, script string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestHideInherited(t *testing.T) {
	for role, want := range map[string]string{"given": "true", "opener": "false"} {
		file, err := os.Create(filepath.Join(t.TempDir(), "lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"="+role, "PROCESS_TEST_FILE="+file.Name())
		cmd.ExtraFiles = []*os.File{file}
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("%s has the file: %s, want %s (%v)", role, out, want, err)
		}
	}
}

func TestFind(t *testing.T) {
	dir := folder(t, "", "mmdebstrap", "dpkg-deb")
	if err := os.Chmod(filepath.Join(dir, "dpkg-deb"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "qemu-system-aarch64"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := &Runner{folders: []string{"relative", "", dir}, self: "/opt/smolvm"}
	if got, err := r.Find(Mmdebstrap); got != filepath.Join(dir, "mmdebstrap") || err != nil {
		t.Errorf("mmdebstrap at %q, %v", got, err)
	}
	if got, err := r.Find(Self); got != "/opt/smolvm" || err != nil {
		t.Errorf("this program at %q, %v", got, err)
	}
	for tool, hint := range map[Tool]string{
		DpkgDeb: "dpkg", QEMUArm: "qemu-system-arm", QEMUx86: "qemu-system-x86", MkfsExt4: "e2fsprogs",
	} {
		_, err := r.Find(tool)
		if fault.CodeOf(err) != fault.Host || !strings.Contains(fault.HintOf(err), hint) {
			t.Errorf("%s: %v (%s)", tool, err, fault.HintOf(err))
		}
	}
	if _, err := r.Find("sh"); fault.CodeOf(err) != fault.Internal {
		t.Errorf("a program that is not on the list: %v", err)
	}
	if _, err := (&Runner{}).Find(Self); err == nil {
		t.Error("this program found without a path")
	}
}

// TestEnvironment shows that a credential of the user's never reaches a program
// that has no use for it.
func TestEnvironment(t *testing.T) {
	dir := folder(t, "env\n", "mkfs.ext4", "mmdebstrap")
	r := New(Options{Environ: []string{
		"PATH=" + dir, "HOME=/home/u", "ANTHROPIC_API_KEY=secret", "https_proxy=http://proxy", "broken",
	}})
	for tool, want := range map[Tool][]string{
		MkfsExt4:   {"HOME=/home/u"},
		Mmdebstrap: {"HOME=/home/u", "https_proxy=http://proxy"},
	} {
		cmd := r.Command(t.Context(), tool)
		if got := cmd.Env[1:]; !slices.Equal(got, want) || !strings.HasPrefix(cmd.Env[0], "PATH="+dir) {
			t.Errorf("%s gets %q", tool, cmd.Env)
		}
	}
	if !matches("SMOLVM_*", "SMOLVM_HOME") || matches("PIP_*", "PIPELINE") {
		t.Error("prefixes of names")
	}
}

func runner(t *testing.T, script string) *Runner {
	t.Helper()
	return New(Options{Environ: []string{"PATH=" + folder(t, script, "mmdebstrap") + ":" + os.Getenv("PATH")}})
}

func TestRunExplains(t *testing.T) {
	r := runner(t, "echo out; echo cannot do it >&2; exit ${1:-3}\n")
	err := Run(r.Command(t.Context(), Mmdebstrap))
	if status, ok := ExitStatus(err); status != 3 || !ok || !strings.Contains(err.Error(), "mmdebstrap: exit status 3: cannot do it") {
		t.Errorf("%v, status %d", err, status)
	}
	if out, err := Output(r.Command(t.Context(), Mmdebstrap, "0")); string(out) != "out\n" || err != nil {
		t.Errorf("output %q, %v", out, err)
	}
	err = Run((&Runner{}).Command(t.Context(), Mmdebstrap))
	if fault.CodeOf(err) != fault.Host {
		t.Errorf("a program that is not there: %v", err)
	}
	if _, ok := ExitStatus(err); ok {
		t.Error("a program that never ran has an exit status")
	}
	if status, ok := ExitStatus(nil); status != 0 || !ok {
		t.Error("no error is status 0")
	}
}

// TestCancelEndsTheGroup cancels a program whose own child holds its output.
func TestCancelEndsTheGroup(t *testing.T) {
	r := runner(t, "sleep 100 & echo started; wait\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := r.Command(ctx, Mmdebstrap)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "started\n" {
		t.Fatal(line, err)
	}
	cancel()
	begun := time.Now()
	if _, err := io.ReadAll(lines); err != nil || time.Since(begun) > Grace {
		t.Errorf("the output stayed open for %s: %v", time.Since(begun), err)
	}
	status, _ := ExitStatus(cmd.Wait())
	if status != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d of a cancelled program", status)
	}
}

func TestStartBound(t *testing.T) {
	r := runner(t, "echo $1 >&2; exit 4\n")
	var said bytes.Buffer
	cmd := r.Command(context.Background(), Mmdebstrap, "bound")
	cmd.Stderr = &said
	child, err := StartBound(cmd)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // Wait may be repeated
		if status, _ := ExitStatus(child.Wait()); status != 4 || said.String() != "bound\n" {
			t.Errorf("status %d, said %q", status, &said)
		}
	}
	child.Kill()
	if _, err := StartBound((&Runner{}).Command(t.Context(), Mmdebstrap)); fault.CodeOf(err) != fault.Host {
		t.Errorf("a program that is not there: %v", err)
	}
	child, err = StartBound(runner(t, "exec sleep 100\n").Command(context.Background(), Mmdebstrap))
	if err != nil {
		t.Fatal(err)
	}
	child.Kill()
	if status, _ := ExitStatus(child.Wait()); status != 128+int(syscall.SIGKILL) {
		t.Errorf("status %d of a killed program", status)
	}
}

func TestTail(t *testing.T) {
	var all bytes.Buffer
	tail := NewTail(&all)
	long := strings.Repeat("x", 100) + "\n"
	for range 100 {
		_, _ = io.WriteString(tail, long)
	}
	_, _ = io.WriteString(tail, "last \x1b[31mred\x00\r\n")
	text := tail.String()
	if !strings.HasSuffix(text, "\nlast ?[31mred?") || len(text) > tailBytes || strings.Count(text, long[:100]) != strings.Count(text, "\n") {
		t.Errorf("kept %q", text)
	}
	if all.Len() < 100*len(long) {
		t.Errorf("passed on %d bytes", all.Len())
	}
	tail = NewTail(nil)
	_, _ = tail.Write(bytes.Repeat([]byte{'y'}, 3*tailBytes))
	if got := len(tail.String()); got != tailBytes {
		t.Errorf("kept %d bytes of one long line", got)
	}
}

func TestIgnoreGone(t *testing.T) {
	if err := ignoreGone(syscall.ESRCH); !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	if err := ignoreGone(syscall.EPERM); !errors.Is(err, syscall.EPERM) {
		t.Error(err)
	}
}
