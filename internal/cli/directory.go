package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// maxNumber is room for the number that makes a name unique.
const maxNumber = len("-9999")

// maxName is the longest name that a sandbox may have.
const maxName = 63

// defaultName is the preset's name with that of the directory, which tells one
// project's sandbox from another's. The user's home, the root and a sandbox that
// has nothing of the directory add nothing.
func (l *launch) defaultName() string {
	directory := l.app.Directory
	if l.options.NoMount || directory == "" || directory == l.app.UserHome {
		return l.preset.Name
	}
	base := slug(filepath.Base(directory))
	base = base[:max(0, min(len(base), maxName-maxNumber-len(l.preset.Name)-1))]
	return strings.TrimRight(l.preset.Name+"-"+base, "-")
}

// slug keeps of a directory's name what the name of a sandbox may have.
func slug(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	return strings.Join(words, "-")
}

// directory is the one that a new sandbox belongs to.
func (l *launch) directory() string {
	if l.options.NoMount {
		return ""
	}
	return l.app.Directory
}

// takesBack tells whether this start goes on with a sandbox that is here already. Only
// a person on a terminal is taken back to it; a script gets what it asks for.
func (l *launch) takesBack() bool {
	o := l.options
	return !o.New && !o.Remove && !o.NoMount && l.app.Directory != "" && l.app.Streams.Interactive()
}

// turn waits for another start of the same in this directory: what that makes is
// what this one goes on with. It is over when the sandbox runs.
func (l *launch) turn(ctx context.Context) error {
	if !l.takesBack() || l.options.DryRun {
		return nil
	}
	done, err := l.boxes.Turn(ctx, l.preset.Name+"\x00"+l.app.Directory, func() {
		l.app.notice("Another smolvm is just starting %s in this directory: waiting for it.", l.preset.Name)
	})
	if ctx.Err() != nil {
		return err
	}
	if err != nil { // a state folder that cannot be written: a sandbox that runs is found all the same
		l.app.warn("%v", err)
		return nil
	}
	l.app.pass = sync.OnceFunc(func() {
		if err := done(); err != nil {
			l.app.warn("let others start %s in this directory: %v", l.preset.Name, err)
		}
	})
	return nil
}

// here finds the sandbox that this command made before in this directory: one
// that runs before one that is stopped, then the one that was used last.
func (l *launch) here() (found sandbox.Status, ok bool, err error) {
	o := l.options
	if !l.takesBack() {
		return found, false, nil
	}
	all, err := l.boxes.List()
	if err != nil {
		return found, false, err
	}
	all = slices.DeleteFunc(all, func(s sandbox.Status) bool { // one without mounts has nothing of the directory
		return len(s.Mounts) == 0 || s.Directory != l.app.Directory || s.Preset != l.preset.Name || s.State == sandbox.Broken ||
			o.Name != "" && s.Name != o.Name
	})
	if len(all) == 0 {
		return found, false, nil
	}
	return slices.MaxFunc(all, byUse), true, nil
}

// byUse orders sandboxes by how likely it is that the user means them.
func byUse(a, b sandbox.Status) int {
	running := func(s sandbox.Status) int {
		if s.State == sandbox.Running {
			return 1
		}
		return 0
	}
	if order := running(a) - running(b); order != 0 {
		return order
	}
	if order := a.Started.Compare(b.Started); order != 0 {
		return order
	}
	return a.Created.Compare(b.Created)
}

// goOn runs the agent in the sandbox that is here already.
func (l *launch) goOn(ctx context.Context, s sandbox.Status) error {
	flag, err := l.fixed(s)
	if err != nil {
		return err
	}
	if flag != "" {
		return fault.New(fault.Usage, "Make another one with --new, or leave "+flag+" out.",
			"%s holds for a new sandbox, but this directory has %q", flag, s.Name)
	}
	if l.options.DryRun {
		return l.showGoOn(s)
	}
	if err := l.app.forwardable(ctx, s, l.publish); err != nil {
		return err
	}
	l.app.Streams.Say("Going on with %s of this directory; --new makes another.", s.Name)
	for _, f := range l.publish {
		if _, err := l.boxes.Forward(ctx, s.Name, f); err != nil {
			return err
		}
	}
	return l.app.startAgain(ctx, l.boxes, s, l.attach, l.options)
}

// goOnPlan is what --dry-run gives where a start goes on with a sandbox.
type goOnPlan struct {
	GoesOnWith string      `json:"goes_on_with"` // the sandbox's name; a plan for a new one lacks this
	Starts     bool        `json:"starts"`       // it does not run yet
	Sandbox    sandboxView `json:"sandbox"`
}

func (l *launch) showGoOn(s sandbox.Status) error {
	if l.options.JSON {
		return ui.WriteData(l.app.Streams.Out, goOnPlan{s.Name, s.State != sandbox.Running, l.app.viewOf(s)})
	}
	verb := "start"
	if s.State == sandbox.Running {
		verb = "go on with"
	}
	_, err := fmt.Fprintf(l.app.Streams.Out, "Would %s %s, which this directory has; with --new it would be another.\n", verb, s.Name)
	return err
}

// fixed names a flag that was given but was decided when s was made.
func (l *launch) fixed(s sandbox.Status) (string, error) {
	o := l.options
	remount := false
	if len(o.Mounts) > 0 || o.SamePath {
		mounts, err := l.app.mounts(o)
		if err != nil {
			return "", err
		}
		remount = !slices.Equal(mounts, s.Mounts)
	}
	for flag, given := range map[string]bool{
		"--cpus":    o.CPUs > 0 && o.CPUs != s.CPUs,
		"--memory":  o.Memory > 0 && o.Memory>>20 != s.MemoryMiB,
		"--disk":    o.Disk > 0 && o.Disk != s.DiskBytes,
		"--arch":    o.Arch != "" && o.Arch != s.Arch,
		"--backend": o.Backend != "" && o.Backend != s.VMM,
		"--ask":     o.Ask && !slices.Equal(s.Launch, l.preset.Ask),
		"--mount":   remount,
		"--network, --network-rate, --allow or --allow-host": o.Network.given() && !reflect.DeepEqual(networkOf(true, l.policy), networkOf(s.Network, s.Egress)),
	} {
		if given {
			return flag, nil
		}
	}
	return "", nil
}
