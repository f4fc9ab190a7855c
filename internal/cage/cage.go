// Package cage confines a virtual machine monitor without root: the program runs as
// the first process of namespaces of its own, in a root that holds only the files it
// was given, without capabilities and without a way to get any.
//
// Input is a Plan; output is a command whose program builds the cage around itself
// and then becomes the one that is to be confined. The stage that builds is this
// same program, started again; it reads the plan from a pipe. Nothing stays on
// disk: the root is a file system in memory that ends with its last process. A crash
// leaves the empty folder Plan.Root, which the caller made.
package cage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

// Word is the command by which this program is told to be the stage that builds a
// cage.
const Word = "cage"

// planFD is where the stage finds its plan: the first of the command's ExtraFiles.
const planFD = 3

// FirstFile is the descriptor under which the program finds the first of the files
// that it was given with Command.
const FirstFile = planFD + 1

// maxPlan is what a pipe takes without anybody reading.
const maxPlan = 60 << 10

// maxFiles bounds the files that a program is given.
const maxFiles = 64

// Exit statuses of a stage that could not build the cage, and of one that built it
// and could not run the program in it.
const (
	failStatus = 120
	runStatus  = 121
)

// Plan is a cage and what runs in it. All of it is decided before anything starts.
type Plan struct {
	Root     string   `json:"root"` // an empty folder outside, over which the root is built
	Binds    []Bind   `json:"binds"`
	Program  string   `json:"program"` // path inside; empty: the cage is only tried
	Args     []string `json:"args"`
	Files    int      `json:"files"` // open files that the program is given besides the standard ones; set by Command
	Limits   Limits   `json:"limits"`
	OOMScore int      `json:"oom_score"` // added to the program's badness when memory runs out
	// Tap is the cage's network card; nil: none. Who starts the command gives it a
	// Handout too.
	Tap *Tap `json:"tap,omitempty"`
}

// Bind shows a file or folder of the outside in the cage.
type Bind struct {
	From     string `json:"from"`
	To       string `json:"to"` // absolute, inside
	Writable bool   `json:"writable,omitempty"`
	Device   bool   `json:"device,omitempty"`
	Program  bool   `json:"program,omitempty"` // may be run, or holds what may be
}

// Limits are resource limits of the program; 0 leaves one as it is.
type Limits struct {
	Memory    uint64 `json:"memory"`    // bytes of address space
	Files     uint64 `json:"files"`     // open at once
	Processes uint64 `json:"processes"` // and threads
}

// Command makes the command that runs plan. The program gets the files, from
// FirstFile on, and no others. It is started with process.StartBound, by a caller
// that then closes the command's ExtraFiles, of which the first is the plan.
func Command(ctx context.Context, runner *process.Runner, plan Plan, files ...*os.File) (*process.Cmd, error) {
	plan.Files = len(files)
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, fmt.Errorf("plan a cage: %w", err)
	}
	if len(text) > maxPlan {
		return nil, fmt.Errorf("plan a cage: %d bytes are too many", len(text))
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("plan a cage: %w", err)
	}
	_, err = write.Write(text)
	if err = errors.Join(err, write.Close()); err != nil {
		return nil, errors.Join(err, read.Close())
	}
	cmd := runner.Command(ctx, process.Self, Word)
	process.InCage(cmd)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.ExtraFiles = append([]*os.File{read}, files...) // planFD, FirstFile
	return cmd, nil
}

// readPlan reads the plan that Command wrote.
func readPlan(from io.Reader) (Plan, error) {
	var p Plan
	text, err := io.ReadAll(io.LimitReader(from, maxPlan+1))
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, fmt.Errorf("read the plan of a cage: %w", err)
	}
	return p, p.check()
}

// check refuses places outside of the root.
func (p Plan) check() error {
	if !filepath.IsAbs(p.Root) {
		return fmt.Errorf("plan of a cage: root %q is not absolute", p.Root)
	}
	if p.Files < 0 || p.Files > maxFiles {
		return fmt.Errorf("plan of a cage: %d open files", p.Files)
	}
	for _, b := range p.Binds {
		if !filepath.IsAbs(b.From) || !filepath.IsAbs(b.To) || filepath.Clean(b.To) != b.To || b.To == "/" {
			return fmt.Errorf("plan of a cage: %q cannot be shown at %q", b.From, b.To)
		}
	}
	return nil
}

// Failed tells whether a program ended because its cage could not be built; said is
// what it wrote to standard error.
func Failed(exit error, said string) bool {
	status, known := process.ExitStatus(exit)
	return known && status == failStatus && strings.Contains(said, complaint)
}

// complaint begins what a stage says that cannot build its cage.
const complaint = "cage: "

// Try builds a cage with nothing in it, and says why that is not possible here.
func Try(ctx context.Context, runner *process.Runner) error { return try(ctx, runner, nil) }

// TryTap does the same with a cage that has a network card.
func TryTap(ctx context.Context, runner *process.Runner) error {
	return try(ctx, runner, &Tap{Name: "tap0", MTU: 1500})
}

func try(ctx context.Context, runner *process.Runner, tap *Tap) error {
	root, err := os.MkdirTemp("", "smolvm-cage-")
	if err != nil {
		return fault.New(fault.Storage, "", "try a cage: %w", err)
	}
	defer os.Remove(root)
	cmd, err := Command(ctx, runner, Plan{Root: root, Tap: tap})
	if err != nil {
		return err
	}
	defer cmd.ExtraFiles[0].Close()
	handout, err := NewHandout()
	if err != nil {
		return err
	}
	defer handout.Close()
	handout.Give(cmd)
	if err := process.Run(cmd); err != nil && ctx.Err() == nil {
		return Forbidden(os.DirFS("/"), runner.SelfPath(), err)
	}
	return ctx.Err()
}

// Forbidden explains a cage that cannot be built: which rule of this system is in
// the way, as far as its settings show, and the one command that changes it.
func Forbidden(root fs.FS, self string, cause error) error {
	setting := func(name string) string {
		text, _ := fs.ReadFile(root, "proc/sys/"+name)
		return strings.TrimSpace(string(text))
	}
	why, fix := tapTrouble(cause.Error())
	switch {
	case why != "":
	case setting("user/max_user_namespaces") == "0":
		why = "this system allows no user namespaces (user.max_user_namespaces is 0)"
		fix = "Allow them once: echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/60-smolvm.conf && sudo sysctl --system"
	case setting("kernel/unprivileged_userns_clone") == "0":
		why = "this system keeps user namespaces for root (kernel.unprivileged_userns_clone is 0)"
		fix = "Allow them once: echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/60-smolvm.conf && sudo sysctl --system"
	case setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
		why = "AppArmor allows user namespaces only to programs with a profile (kernel.apparmor_restrict_unprivileged_userns is 1)"
		fix = fmt.Sprintf("Give smolvm one, once: printf 'abi <abi/4.0>,\\nprofile smolvm %s flags=(unconfined) { userns, }\\n' | "+
			"sudo tee /etc/apparmor.d/smolvm && sudo apparmor_parser -r /etc/apparmor.d/smolvm", self)
	default:
		fix = "Look for what forbids it: a container's seccomp filter, SELinux, or a hardened kernel."
	}
	if why != "" {
		cause = fmt.Errorf("%s: %w", why, cause)
	}
	return fault.New(fault.Host, fix, "confine a virtual machine monitor: %w", cause)
}
