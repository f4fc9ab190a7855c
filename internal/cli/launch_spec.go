package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

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
		if need, ok := missingGit(m, l.mounts); ok {
			l.app.notice("%s", need.text(m))
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
