package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// cleanTime bounds the deletion of a sandbox when the command ends.
const cleanTime = 30 * time.Second

// launch is one `PRESET start` on its way.
type launch struct {
	app     *App
	preset  preset.Preset
	options startOptions
	attach  bool
	mounts  []record.Mount
	policy  egress.Policy
	boxes   sandboxes
	machine machine
	config  config.Config // with the project's file in it
	gift    gift          // what the agent gets of the user's
	publish []port.Forward
}

// machine is what a sandbox will run on.
type machine struct {
	arch, vmm string
	named     bool  // the VMM was asked for
	why       error // why it is not Firecracker, where that would have been chosen; nil: nothing is in the way
	cpus      int   // of the host
	memoryMiB int64 // of the host
}

// runPresetStart makes a new sandbox and starts it. All that can be refused is
// refused before anything is downloaded.
func runPresetStart(ctx context.Context, app *App, p preset.Preset, o startOptions) error {
	l := &launch{app: app, preset: p, options: o}
	if err := l.check(); err != nil {
		return err
	}
	if err := l.turn(ctx); err != nil {
		return err
	}
	defer app.passOn()
	if s, ok, err := l.here(); err != nil || ok {
		if err != nil {
			return err
		}
		return l.goOn(ctx, s)
	}
	if err := l.checkNew(ctx); err != nil {
		return err
	}
	if o.DryRun {
		return l.show(ctx)
	}
	name, err := l.bring(ctx)
	if err != nil {
		return err
	}
	return l.finish(ctx, name)
}

// bring makes the sandbox and starts it, on Firecracker maybe a second time, and
// then on QEMU.
func (l *launch) bring(ctx context.Context) (name string, err error) {
	for failed := 1; ; failed++ {
		if name, err = l.make(ctx); l.distrusts(err) {
			if name, err = l.make(ctx); err != nil { // the same sandbox on QEMU
				return "", err
			}
		}
		if err != nil {
			return "", err
		}
		if err = l.boot(ctx, name); err == nil || !l.app.again(&l.machine, failed, err) {
			return name, err
		}
	}
}

// distrusts tells whether a sandbox was not made because Firecracker brought no probe
// guest up, and QEMU takes its place.
func (l *launch) distrusts(err error) bool {
	var d distrust
	if !errors.As(err, &d) || l.machine.doubt(d.error) != nil {
		return false
	}
	return l.app.Able(l.machine) == nil
}

// show says what the launch would do.
func (l *launch) show(ctx context.Context) error {
	if err := l.app.Sound(ctx, l.machine); err != nil {
		return err
	}
	plan, err := l.plan(ctx)
	if err != nil {
		return err
	}
	if l.options.JSON {
		return ui.WriteData(l.app.Streams.Out, plan)
	}
	_, err = fmt.Fprint(l.app.Streams.Out, plan.text(l.app.sheet()))
	return err
}

// make brings the image here and makes the sandbox. The lease holds the image
// until the sandbox's record does.
func (l *launch) make(ctx context.Context) (name string, err error) {
	row, image, lease, err := l.obtain(ctx)
	if err != nil {
		return "", err
	}
	defer l.app.giveUp(lease)
	spec, err := l.spec(ctx, row, image)
	if err != nil {
		return "", err
	}
	return l.create(ctx, spec)
}

// check refuses what cannot work, cheapest first, and what only concerns a new
// sandbox in checkNew.
func (l *launch) check() (err error) {
	if l.attach, err = l.app.attaches(l.options); err != nil {
		return err
	}
	if _, err := l.app.sshAgent(l.options.SSHAgent); err != nil {
		return err
	}
	if l.options.Record, err = l.app.recording(l.options.Record); err != nil {
		return err
	}
	if l.options.Remove && !l.attach {
		return refuse("Add --attach, or delete the sandbox later with smolvm delete.",
			"--rm deletes the sandbox when the agent ends, but nothing is attached here")
	}
	if l.options.Ask && len(l.preset.Ask) == 0 {
		return refuse("Leave --ask out.", "preset %s has no mode in which its agent asks", l.preset.Name)
	}
	if l.options.Name != "" {
		if err := record.ValidateName(l.options.Name); err != nil {
			return err
		}
	}
	if l.machine, err = l.app.machineFor(l.options.Arch, l.options.Backend); err != nil {
		return err
	}
	if err := checkSizes(l.options, l.machine); err != nil {
		return err
	}
	if l.publish, err = parsePorts(l.options.Publish); err != nil {
		return err
	}
	l.boxes, err = l.app.Sandboxes()
	return err
}

func (l *launch) checkNew(ctx context.Context) (err error) {
	if l.mounts, err = l.app.mounts(l.options); err != nil {
		return err
	}
	if l.policy, err = l.options.Network.policy(l.preset); err != nil {
		return err
	}
	name, err := l.freeName()
	if err != nil {
		return err
	}
	if err := l.app.forwardable(ctx, sandbox.Status{Record: record.Record{Name: name}}, l.publish); err != nil {
		return err
	}
	if err := l.configure(ctx); err != nil {
		return err
	}
	if err := l.app.settle(ctx, &l.machine, l.options.CPUs); err != nil {
		return err
	}
	return l.app.ableInstead(l.machine)
}

// configure fills what no flag says from the configuration.
func (l *launch) configure(ctx context.Context) (err error) {
	if l.config, err = l.app.projectConfig(ctx, l.options.NoProject); err != nil {
		return err
	}
	o, name := &l.options, l.preset.Name
	o.CPUs = firstSet(o.CPUs, int(l.config.Number("cpus", name)))
	o.Memory = firstSet(o.Memory, l.config.Number("memory", name))
	o.Disk = firstSet(o.Disk, l.config.Number("disk", name))
	if err := checkSizes(l.options, l.machine); err != nil {
		return fmt.Errorf("as the configuration says (smolvm config list --show-origin): %w", err)
	}
	give := l.app.giftFor
	if o.DryRun {
		give = l.app.gift // nobody is asked
	}
	st := standing{network: l.policy.Kind() != egress.Off, policy: l.policy}
	l.gift, err = give(ctx, l.config, l.preset, o.Give, st)
	return err
}

// attaches decides whether the agent runs in front of the user.
func (a *App) attaches(o startOptions) (bool, error) {
	switch {
	case o.Attach && o.NoAttach:
		return false, refuse("Give one of them.", "--attach and --no-attach exclude each other")
	case o.NoAttach && o.Args != nil:
		return false, refuse("Leave --no-attach out, or run it later with smolvm attach.",
			"arguments for the agent were given, but --no-attach does not run it")
	case o.SSHAgent && (o.NoAttach || o.Args == nil && !o.Attach && (o.JSON || !a.Streams.Interactive())):
		return false, refuse("Add --attach, or give it to smolvm attach later.", "--ssh-agent holds while the agent is in front of you, but nothing is attached here")
	case o.NoAttach && o.Wish.Chosen:
		return false, refuse("Give them to smolvm attach.", "--detach-keys are of no use with --no-attach")
	case o.Timeout <= 0:
		return false, refuse("Give a time such as 90s.", "--timeout %v leaves no time to boot", o.Timeout)
	}
	if err := o.Wish.check(a, nil, o.JSON); err != nil {
		return false, err
	}
	if o.Attach || o.Args != nil {
		return true, nil
	}
	return !o.NoAttach && !o.JSON && a.Streams.Interactive(), nil
}

func (a *App) notice(format string, args ...any) {
	a.Progress().Emit(event.Event{Time: a.Now(), Kind: event.Notice, Text: fmt.Sprintf(format, args...)})
}

func (a *App) warn(format string, args ...any) {
	a.Progress().Emit(event.Event{Time: a.Now(), Kind: event.Warning, Text: fmt.Sprintf(format, args...)})
}

// create makes the sandbox under a free name. Where the name is our choice and
// another process was faster, the next one is taken.
func (l *launch) create(ctx context.Context, spec sandbox.Spec) (string, error) {
	for {
		name, err := l.freeName()
		if err != nil {
			return "", err
		}
		spec.Name = name
		_, err = l.boxes.Create(ctx, spec)
		if err == nil || l.options.Name != "" || fault.CodeOf(err) != fault.Conflict {
			return name, err
		}
	}
}

// boot starts the new sandbox. A start that fails or is interrupted leaves no
// sandbox: it never held anything.
func (l *launch) boot(ctx context.Context, name string) error {
	_, err := l.boxes.Start(ctx, name, l.gift.into(sandbox.StartOptions{
		Timeout: l.options.Timeout,
		Idle:    l.config.IdleStop(l.preset.Name), Keep: l.options.Keep, LoginHome: l.app.loginHome(l.config, l.preset.Name),
		Capture: l.options.Record,
	}))
	if err != nil {
		return errors.Join(err, l.remove(ctx, name))
	}
	return nil
}

// finish ends as the options say.
func (l *launch) finish(ctx context.Context, name string) error {
	made, unread := l.boxes.Get(name)
	err := l.app.started(ctx, l.boxes, name, l.attach, l.options)
	if unread == nil { // else started has said so
		name = renamed(l.boxes, made).Name
	}
	if l.options.Remove && errors.Is(err, errDetached) {
		l.app.Streams.Say("Not deleted, as its agent goes on. When you are done: smolvm delete %s", name)
	} else if l.options.Remove {
		if gone := l.remove(ctx, name); gone != nil {
			return gone
		}
	}
	return err
}

// remove deletes the sandbox, also when the command was interrupted.
func (l *launch) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	err := l.boxes.Delete(ctx, name)
	if fault.CodeOf(err) == fault.NotFound { // a failed start removed it
		return nil
	}
	return err
}
