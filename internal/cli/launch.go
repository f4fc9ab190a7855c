package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
	"github.com/smolvm/smolvm/internal/wire"
)

// Limits of a sandbox's size.
const (
	minMemory  = 256 << 20 // bytes: below, the kernel and the guest agent leave an agent nothing
	minDisk    = 256 << 20 // bytes: below, ext4's journal and the agent's home do not fit
	maxDisk    = 8 << 40   // bytes: as presets may ask for
	maxOwnCPUs = 4         // of a preset that names no number
	fallbackMB = 2048      // memory and 10 times that of disk, of a preset that names none
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

// checkSizes compares the flags with the host.
func checkSizes(o startOptions, host machine) error {
	switch {
	case o.CPUs > host.cpus:
		return fault.New(fault.Host, fmt.Sprintf("Give at most %d.", host.cpus),
			"--cpus %d is more than this computer's %d", o.CPUs, host.cpus)
	case host.memoryMiB > 0 && o.Memory > host.memoryMiB<<20:
		return fault.New(fault.Host, "Give less, such as "+sizeWord(host.memoryMiB<<20/2)+".",
			"--memory %s is more than this computer's %s", ui.Bytes(o.Memory), ui.Bytes(host.memoryMiB<<20))
	case o.Memory > 0 && o.Memory < minMemory:
		return refuse("Give at least "+sizeWord(minMemory)+".", "--memory %s is too little", ui.Bytes(o.Memory))
	case o.Disk > 0 && o.Disk < minDisk:
		return refuse("Give at least "+sizeWord(minDisk)+".", "--disk %s is too small", ui.Bytes(o.Disk))
	case o.Disk > maxDisk:
		return refuse("Give at most "+sizeWord(maxDisk)+".", "--disk %s is too large", ui.Bytes(o.Disk))
	}
	return nil
}

// sizeWord is a size as flags take it, in whole units and not more than it is.
func sizeWord(bytes int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}} {
		if bytes >= unit.size {
			return fmt.Sprintf("%d%s", bytes/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%dK", bytes>>10)
}

// freeName is the sandbox's name: the one that was asked for, which must be
// free, or the default one, made unique.
func (l *launch) freeName() (string, error) {
	names, err := l.boxes.Names()
	if err != nil {
		return "", err
	}
	if name := l.options.Name; name != "" {
		if slices.Contains(names, name) {
			return "", fault.New(fault.Conflict,
				fmt.Sprintf("Start it again with smolvm start %s, delete it, or choose another name with -n.", name),
				"there is already a sandbox %q", name)
		}
		return name, nil
	}
	return freeName(l.defaultName(), names), nil
}

// freeName is a name that is not taken, else the next of its kind.
func freeName(base string, taken []string) string {
	if !slices.Contains(taken, base) {
		return base
	}
	return nextName(base, taken)
}

// nextName is the first of base-2, base-3 and so on that is free.
func nextName(base string, taken []string) string {
	for n := 2; ; n++ {
		if name := fmt.Sprintf("%s-%d", base, n); !slices.Contains(taken, name) {
			return name
		}
	}
}

// obtain brings the preset's image into the cache: the published one, or one that
// is built here where none is published or none is wanted.
func (l *launch) obtain(ctx context.Context) (manifest.Row, record.Image, lease, error) {
	found, row, why, err := l.find(ctx)
	if err != nil {
		return row, record.Image{}, nil, err
	}
	if err := l.worthwhile(ctx, found, row, why); err != nil {
		return row, record.Image{}, nil, err
	}
	if why != "" {
		return l.app.BuildHere(ctx, localBuild{found: found, preset: l.preset, machine: l.machine, why: why, verbose: l.options.Verbose, policy: buildPolicy(l.policy)})
	}
	defer l.app.whenInterrupted(ctx, resumeHint)()
	image, lease, err := l.app.Pull(ctx, found, row, false)
	return row, image, lease, err
}

// worthwhile refuses a VMM that cannot start the sandbox, where minutes would be
// spent on an image first. One that is in the cache is started at once, and the
// failure says the same.
func (l *launch) worthwhile(ctx context.Context, found resolve.Catalogue, row manifest.Row, why string) error {
	if why != "" {
		b := localBuild{app: l.app, found: found, preset: l.preset, machine: l.machine}
		if row, there := b.foundation(); there && l.app.Built(b, row) {
			return nil
		}
		return l.app.Sound(ctx, l.machine)
	}
	plan, err := found.Plan(ctx, row, inventory(l.app.Lookup))
	if err != nil || plan.Fetch == 0 {
		return err
	}
	return l.app.Sound(ctx, l.machine)
}

// find looks for the published image, or says why one is built here.
func (l *launch) find(ctx context.Context) (found resolve.Catalogue, row manifest.Row, why string, err error) {
	c, err := l.app.Config()
	if err != nil {
		return found, row, "", err
	}
	// What is built here anyway needs no catalogue: it only spares building the base.
	if resolve.Address(c) != "" || c.UsePublished && !l.preset.Unpublished {
		if found, err = l.app.Catalogue(ctx); err != nil {
			return found, row, "", err
		}
	}
	row, there := found.Find(l.preset.Name, l.machine.arch, l.machine.vmm)
	if !there && c.UsePublished {
		if row, there, err = l.insteadOfBuilding(found); err != nil {
			return found, row, "", err
		}
	}
	return found, row, whyLocal(l.preset, l.machine, there, c.UsePublished), nil
}

// insteadOfBuilding finds the image for QEMU where none is published for a Firecracker
// that was not asked for: to be on QEMU costs less than to build an image.
func (l *launch) insteadOfBuilding(found resolve.Catalogue) (row manifest.Row, there bool, err error) {
	if row, there = found.Find(l.preset.Name, l.machine.arch, config.QEMU); !there || l.machine.vmm != config.Firecracker || l.machine.named {
		return manifest.Row{}, false, nil
	}
	_ = l.machine.doubt(fmt.Errorf("release %s has no image of %s for it", found.Manifest.Release, l.preset.Name)) // takes over
	return row, true, l.app.ableInstead(l.machine)
}

// spec decides everything about the sandbox but its name.
func (l *launch) spec(ctx context.Context, row manifest.Row, image record.Image) (sandbox.Spec, error) {
	surroundings, err := l.app.Config()
	if err != nil {
		return sandbox.Spec{}, err
	}
	certificates, err := surroundings.HostCA()
	if err != nil {
		return sandbox.Spec{}, err
	}
	accel, reason, err := l.app.Accel(ctx, l.machine, row, image)
	if err != nil {
		return sandbox.Spec{}, err
	}
	program, err := l.app.Program(ctx, l.machine)
	if err != nil {
		return sandbox.Spec{}, err
	}
	l.notices(ctx, surroundings, image, accel, reason)
	return sandbox.Spec{
		Directory: l.directory(), Preset: l.preset.Name, Agent: record.Agent(row.Agent), Image: image,
		Launch: l.command(), Arguments: l.preset.Arguments, Ports: l.preset.Ports, Services: l.services(),
		Mounts: l.mounts, Forwards: l.forwards(), Arch: l.machine.arch, VMM: l.machine.vmm, Accel: accel,
		CPUs: l.cpus(row), MemoryMiB: l.memoryMiB(row), DiskBytes: l.disk(row),
		Mode: wire.ModeRun, Network: true, Egress: l.policy, VMMProgram: program, Env: surroundings.SessionEnv(l.policy), CACerts: certificates,
	}, nil
}

// command starts the agent, with its own prompts kept or not.
func (l *launch) command() []string {
	if l.options.Ask {
		return l.preset.Ask
	}
	return l.preset.Launch
}

// services are what the guest keeps running, in the same mode.
func (l *launch) services() []wire.Service {
	var all []wire.Service
	for _, s := range l.preset.Services {
		run := s.Run
		if l.options.Ask && len(s.Ask) > 0 {
			run = s.Ask
		}
		all = append(all, wire.Service{
			Name: s.Name, Run: run, User: s.User, Port: s.Port, Health: s.Health, Restart: wire.Restart(s.Restart),
		})
	}
	return all
}

// forwards are those that were asked for, and the preset's ports, each under its own
// number where that is free.
func (l *launch) forwards() []port.Forward {
	all := slices.Clone(l.publish)
	for _, number := range l.preset.Ports {
		if !slices.ContainsFunc(all, func(f port.Forward) bool { return f.Guest == number }) {
			all = append(all, port.Forward{Host: number, Guest: number, Any: true})
		}
	}
	return all
}

// notices says what the user would otherwise wonder about.
func (l *launch) notices(ctx context.Context, surroundings config.Config, image record.Image, accel vmm.Accel, reason string) {
	for _, m := range l.mounts {
		l.app.notice("Mounted: %s", mountText(m))
		if common := missingGit(m, l.mounts); common != "" {
			l.app.notice("%s is a git worktree whose repository is not mounted: git works in the sandbox with --mount %s:%s.", m.Host, common, common)
		}
	}
	if len(l.mounts) == 0 && !l.options.NoMount {
		l.app.notice("Nothing of this computer is mounted; --mount . mounts the current folder at %s.", wire.Workspace)
	}
	l.gift.tell(l.app)
	if image.StandIn != "" {
		l.app.notice("The kernel is a stand-in for SmolVM's own: %s (%s).", image.KernelVersion, image.StandIn)
	}
	for _, withheld := range surroundings.WithheldEnv(l.policy) {
		l.app.notice("%s", withheld)
	}
	l.app.sayIdle(l.policy, l.policy.Allow, nil)
	for _, p := range l.app.closedProxies(ctx, surroundings, l.policy, lookUp) {
		l.app.notice("%s", p)
	}
	l.app.sayInstead(l.machine, accel, reason)
	if accel == vmm.TCG {
		l.app.notice("The sandbox is emulated and therefore slow: %s.", reason)
	}
}

func (a *App) notice(format string, args ...any) {
	a.Progress().Emit(event.Event{Time: a.Now(), Kind: event.Notice, Text: fmt.Sprintf(format, args...)})
}

func (a *App) warn(format string, args ...any) {
	a.Progress().Emit(event.Event{Time: a.Now(), Kind: event.Warning, Text: fmt.Sprintf(format, args...)})
}

func (l *launch) cpus(row manifest.Row) int {
	wanted := firstSet(l.options.CPUs, row.Resources.CPUs, l.preset.Resources.CPUs, maxOwnCPUs)
	if l.options.CPUs == 0 && l.machine.vmm == config.Firecracker {
		return firecracker.FewerProcessors(min(wanted, l.machine.cpus))
	}
	return min(wanted, l.machine.cpus)
}

// memoryMiB leaves the host a quarter of its memory where the user asked for nothing.
func (l *launch) memoryMiB(row manifest.Row) int64 {
	if l.options.Memory > 0 {
		return l.options.Memory >> 20
	}
	wanted := firstSet(row.Resources.MemoryMiB, l.preset.Resources.MemoryMiB, fallbackMB)
	if l.machine.memoryMiB == 0 { // unknown
		return wanted
	}
	return min(wanted, l.machine.memoryMiB/4*3)
}

func (l *launch) disk(row manifest.Row) int64 {
	return firstSet(l.options.Disk, row.Resources.DiskMiB<<20, l.preset.Resources.DiskMiB<<20, 10*fallbackMB<<20)
}

// firstSet is the first value above zero.
func firstSet[N int | int64](values ...N) N {
	for _, v := range values {
		if v > 0 {
			return v
		}
	}
	return 0
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
	err := l.app.started(ctx, l.boxes, name, l.attach, l.options)
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
