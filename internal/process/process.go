// Package process is the only room that starts programs. It knows each program
// SmolVM may run by name (an allow-list), finds it, says which package brings it
// where it is missing, gives it a clean environment and no shell, and can bind
// its life to that of this process.
//
// Inputs are the search path, the environment and this program's own path, all
// as values. Nothing is kept on disk. After a crash of this process a program
// started by StartBound is ended by the kernel; one started otherwise goes on.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// Cmd is a program that was prepared, for rooms that only pass it on.
type Cmd = exec.Cmd

// Grace is how long a cancelled program has between SIGTERM and SIGKILL, and
// how long its output pipes may stay open after it ended.
const Grace = 5 * time.Second

// Options are what a Runner knows about its surroundings.
type Options struct {
	Environ []string // this process's environment, KEY=VALUE each
	Self    string   // absolute path of this program, for Self; may be empty
	// Places are programs that are where the user says, and nowhere else.
	Places map[Tool]string
	// Folders are searched after those of PATH.
	Folders []string
}

// Runner finds and prepares programs. It has no state that changes.
type Runner struct {
	environ []string
	folders []string
	self    string
	places  map[Tool]string
}

// New makes a Runner. Besides the folders of PATH it looks into /usr/sbin and
// /sbin, where distributions keep mkfs.ext4 out of an ordinary user's PATH.
func New(o Options) *Runner {
	r := &Runner{environ: o.Environ, self: o.Self, places: o.Places}
	for _, kv := range o.Environ {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			r.folders = filepath.SplitList(path)
		}
	}
	r.folders = append(r.folders, "/usr/local/sbin", "/usr/sbin", "/sbin")
	r.folders = append(r.folders, o.Folders...)
	return r
}

// Find gives the absolute path of a tool, or a Host fault whose hint names the
// package that brings it. Relative folders of PATH are never searched.
func (r *Runner) Find(tool Tool) (string, error) {
	info, ok := tools[tool]
	if !ok {
		return "", fault.New(fault.Internal, "", "find program %q: not on the list of programs SmolVM runs", string(tool))
	}
	if tool == Self {
		if r.self == "" {
			return "", fault.New(fault.Internal, "", "find this program: its path is not known")
		}
		return r.self, nil
	}
	if path := r.places[tool]; path != "" {
		if Runnable(path) {
			return path, nil
		}
		return "", fault.New(fault.Host, "Name another one, or none: it is then looked for.", "find program %s: %s is no program file", info.file, path)
	}
	for _, folder := range r.folders {
		path := filepath.Join(folder, info.file)
		if filepath.IsAbs(folder) && executable(path) {
			return path, nil
		}
	}
	return "", fault.New(fault.Host, info.hint(), "find program %s: not in %s", info.file, strings.Join(r.folders, ":"))
}

// Runnable tells whether an absolute path is that of a program file.
func Runnable(path string) bool { return filepath.IsAbs(path) && executable(path) }

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// Command prepares a tool with arguments; it is passed no shell. The program
// gets only the environment its entry in the list allows, so that no credential
// of the user's session is ever in its environment; callers may append to
// cmd.Env. It leads a process group of its own: cancelling ctx sends SIGTERM to
// the whole group, and SIGKILL to the program after Grace. A tool that cannot be
// found is reported by Start, as the Find error.
func (r *Runner) Command(ctx context.Context, tool Tool, args ...string) *exec.Cmd {
	path, err := r.Find(tool)
	if err != nil {
		cmd := exec.CommandContext(ctx, string(tool), args...)
		cmd.Err = err
		return cmd
	}
	info := tools[tool]
	cmd := exec.CommandContext(ctx, path, slices.Concat(info.args, args)...)
	cmd.Env = r.environment(info.env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return ignoreGone(syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)) }
	cmd.WaitDelay = Grace
	return cmd
}

// ignoreGone maps "no such process" to what exec.Cmd takes for "already ended".
func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

func (r *Runner) environment(allowed []string) []string {
	env := []string{"PATH=" + strings.Join(r.folders, ":")}
	for _, kv := range r.environ {
		name, _, _ := strings.Cut(kv, "=")
		if name != "PATH" && slices.ContainsFunc(allowed, func(a string) bool { return matches(a, name) }) {
			env = append(env, kv)
		}
	}
	return env
}

// matches tells whether a name is allowed; an entry ending in * allows a prefix.
func matches(allowed, name string) bool {
	if prefix, ok := strings.CutSuffix(allowed, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return allowed == name
}

// Detach makes cmd the leader of a session of its own: signals of this
// process's terminal and its closing never reach it. For the supervisor.
func Detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// HideInherited keeps the open files that this process was given, besides the
// three standard streams, from the programs it starts. A supervisor outlives the
// command that starts it by hours: a lock or a pipe of the calling shell, kept
// open that long, would block whoever waits for it.
func HideInherited() {
	entries, _ := os.ReadDir("/dev/fd") // where there is none, nothing can be done
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// Run runs cmd to its end. The error of a program that failed carries the last
// lines it wrote to stderr; cmd.Stderr, where set, still gets all of it.
func Run(cmd *exec.Cmd) error {
	tail := NewTail(cmd.Stderr)
	cmd.Stderr = tail
	return explain(cmd, cmd.Run(), tail)
}

// Output is Run that returns what the program wrote to stdout.
func Output(cmd *exec.Cmd) ([]byte, error) {
	tail := NewTail(cmd.Stderr)
	cmd.Stderr = tail
	out, err := cmd.Output()
	return out, explain(cmd, err, tail)
}

// Bounds of Answer.
const (
	answerMax  = 1 << 20 // bytes
	answerTime = 10 * time.Second
)

// Answer is Output of a program that may be anything: one that writes more than 1 MiB,
// or takes longer than 10 s, is ended and fails.
func (r *Runner) Answer(ctx context.Context, tool Tool, args ...string) ([]byte, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("no answer within %v", answerTime))
	defer cancel()
	cmd := r.Command(ctx, tool, args...)
	cmd.WaitDelay = time.Second // whatever it left running has its output, too
	out := &answer{left: answerMax, end: end}
	cmd.Stdout = out
	err := Run(cmd)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(cmd.Path), context.Cause(ctx))
	}
	return out.kept.Bytes(), err
}

// answer keeps what a program writes, up to a bound at which the program is ended.
type answer struct {
	kept bytes.Buffer
	left int
	end  context.CancelCauseFunc
}

func (a *answer) Write(p []byte) (int, error) {
	if len(p) > a.left {
		a.end(fmt.Errorf("it writes more than %d bytes", answerMax))
		return 0, io.ErrShortWrite
	}
	a.left -= len(p)
	return a.kept.Write(p)
}

func explain(cmd *exec.Cmd, err error, tail *Tail) error {
	var exit *exec.ExitError
	switch text := tail.String(); {
	case err == nil:
		return nil
	case cmd.Err != nil:
		return err // not found: the text says all
	case errors.As(err, &exit) && text != "":
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, text)
	}
	return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
}

// ExitStatus finds the exit status in an error of Run, Output or Child.Wait:
// 128 + N for a program ended by signal N. ok is false when the program never
// ran or its end is unknown.
func ExitStatus(err error) (status int, ok bool) {
	var exit *exec.ExitError
	if err == nil {
		return 0, true
	}
	if !errors.As(err, &exit) {
		return 0, false
	}
	if ws, isWait := exit.Sys().(syscall.WaitStatus); isWait && ws.Signaled() {
		return 128 + int(ws.Signal()), true
	}
	return exit.ExitCode(), true
}

// NotFound tells whether err says that a program file does not exist.
func NotFound(err error) bool {
	return errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
}

// SelfPath is this program's own file; empty where it is not known.
func (r *Runner) SelfPath() string { return r.self }
