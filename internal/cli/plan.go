package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/vmm"
)

// startPlan is what `PRESET start` would do. Making it downloads nothing but the
// manifest, boots nothing and writes nothing of a sandbox.
type startPlan struct {
	Preset    string        `json:"preset"`
	Agent     agentView     `json:"agent"`
	Name      string        `json:"name"`
	Command   []string      `json:"command"`
	Image     plannedImage  `json:"image"`
	VMM       string        `json:"vmm"`
	Accel     string        `json:"accel"`
	Reason    string        `json:"reason,omitempty"` // of emulation, or that a probe guest decides
	Instead   string        `json:"not_firecracker_because,omitempty"`
	CPUs      int           `json:"cpus"`
	Memory    int64         `json:"memory_bytes"`
	Disk      int64         `json:"disk_bytes"`
	Network   networkView   `json:"network"`
	Mounts    []mountView   `json:"mounts"`
	Ports     []int         `json:"ports"` // declared by the preset
	Forwards  []forwardView `json:"forwards"`
	Services  []string      `json:"services"`
	Variables []string      `json:"environment"` // names that sessions are given
	// Credentials are the names of the user's variables, and the login files, that
	// the agent gets; Asked is what the user would be asked about.
	Credentials []string `json:"credentials"`
	Asked       []string `json:"credentials_asked,omitempty"`
	// Kept are those that the sandbox gets placeholders for.
	Kept []keptView `json:"credentials_kept"`
}

// plannedImage is where the image comes from.
type plannedImage struct {
	Release  string        `json:"release"`
	BuiltFor string        `json:"built_here_because,omitempty"`
	Parts    []plannedPart `json:"parts"`
	Download int64         `json:"download_bytes"`
	Seconds  *float64      `json:"download_seconds,omitempty"` // at the rate of the last download; absent: unknown
}

// plannedPart is a file of the image, from the bottom.
type plannedPart struct {
	Role  resolve.Role `json:"role"`
	Name  string       `json:"name"`
	State string       `json:"state"` // see stateCached and its neighbours
	Bytes int64        `json:"bytes"` // to download
}

// plan says what the launch will do.
func (l *launch) plan(ctx context.Context) (startPlan, error) {
	p := startPlan{
		Preset: l.preset.Name, Agent: agentView{Name: l.preset.Agent.Name, Version: l.preset.Agent.Version},
		Command: append(slices.Clone(l.command()), l.options.Args...), VMM: l.machine.vmm, Network: networkOf(true, l.policy),
		Mounts: mountsOf(l.mounts), Ports: append([]int{}, l.preset.Ports...), Services: []string{},
	}
	c, err := l.app.Config()
	if err != nil {
		return p, err
	}
	p.Variables = append([]string{}, slices.Sorted(maps.Keys(c.SessionEnv(l.policy)))...)
	p.Credentials, p.Asked = append([]string{}, l.gift.names...), l.gift.offered
	p.Kept = l.gift.kept()
	for _, s := range l.services() {
		p.Services = append(p.Services, s.Name)
	}
	if p.Name, err = l.freeName(); err != nil {
		return p, err
	}
	p.Forwards = forwardsOf(sandbox.Status{Record: record.Record{Name: p.Name, Forwards: l.forwards()}})
	row, err := l.planImage(ctx, &p)
	if err != nil {
		return p, err
	}
	p.VMM = l.machine.vmm // the catalogue may have none for another one
	p.CPUs, p.Memory, p.Disk = l.cpus(row), l.memoryMiB(row)<<20, l.disk(row)
	return p, l.planAccel(ctx, &p)
}

// planImage finds out what of the image is here.
func (l *launch) planImage(ctx context.Context, p *startPlan) (manifest.Row, error) {
	found, row, why, err := l.find(ctx)
	if err != nil {
		return row, err
	}
	if why != "" {
		return manifest.Row{}, l.planBuild(ctx, found, why, &p.Image)
	}
	p.Agent, p.Image.Release = agentView(row.Agent), found.Manifest.Release
	if err := p.Image.add(ctx, found, row, l.app.Lookup); err != nil {
		return row, err
	}
	p.Image.Seconds = l.app.duration(p.Image.Download)
	return row, nil
}

// planBuild finds out what of an image that is built here has to be made.
func (l *launch) planBuild(ctx context.Context, found resolve.Catalogue, why string, p *plannedImage) error {
	p.Release, p.BuiltFor = imagebuild.LocalRelease, why
	b := localBuild{app: l.app, found: found, preset: l.preset, machine: l.machine}
	row, there := b.foundation()
	if there {
		if err := p.add(ctx, found, row, l.app.Lookup); err != nil {
			return err
		}
	} else {
		p.Parts = []plannedPart{{resolve.Kernel, "kernel", stateBuild, 0}, {resolve.Layer, "base", stateBuild, 0}}
	}
	layer := plannedPart{resolve.Layer, l.preset.Name, stateBuild, 0}
	if there && l.app.Built(b, row) {
		layer.State = stateBuilt
	}
	p.Parts = append(p.Parts, layer)
	p.Seconds = l.app.duration(p.Download)
	return nil
}

// The states of a planned part.
const (
	stateCached = "cached" // in the store
	stateVerify = "verify" // in the store, and touched
	stateFetch  = "fetch"
	stateBuild  = "build"
	stateBuilt  = "built" // in the build cache
)

// add appends the files of a row.
func (p *plannedImage) add(ctx context.Context, found resolve.Catalogue, row manifest.Row, look inventory) error {
	plan, err := found.Plan(ctx, row, look)
	if err != nil {
		return err
	}
	words := map[store.State]string{store.Ready: stateCached, store.Doubtful: stateVerify}
	for _, step := range plan.Steps {
		part := plannedPart{Role: step.Role, Name: step.Asset.Name, State: words[step.State]}
		if part.State == "" {
			part.State, part.Bytes = stateFetch, step.Asset.Archive.Size
		}
		p.Parts = append(p.Parts, part)
	}
	p.Download += plan.Fetch
	return nil
}

// planAccel says how the sandbox would run, as far as that is known without
// booting a guest.
func (l *launch) planAccel(ctx context.Context, p *startPlan) (err error) {
	if l.machine.why != nil {
		p.Instead = l.machine.why.Error()
	}
	const ifProbed = "if a probe guest comes up"
	if l.machine.vmm == config.Firecracker {
		p.Accel, p.Reason = string(vmm.KVM), ifProbed // settled, but for that
		return nil
	}
	g := l.app.groundsFor(l.machine.arch)
	g.Unprobed = false
	if g.needsKVM() {
		if g.KVM, err = l.app.KVM(ctx, host.KVMOptions{VMM: l.app.Self}); err != nil {
			return err
		}
	}
	accel, reason := g.accelerator()
	if accel == vmm.KVM {
		reason = ifProbed
	}
	p.Accel, p.Reason = string(accel), reason
	return nil
}

// text is the plan for people.
func (p startPlan) text(out *sheet) string {
	instead := ""
	if p.Instead != "" {
		instead = "of Firecracker: " + p.Instead
	}
	accel := map[string]string{"tcg": "emulated", "kvm": "KVM", "hvf": "Apple's Hypervisor framework"}[p.Accel]
	if p.Reason != "" {
		accel += ", " + p.Reason
	}
	out.facts("", [][2]string{
		{"sandbox", p.Name},
		{"agent", p.Agent.Name + " " + p.Agent.Version},
		{"command", strings.Join(p.Command, " ")},
		{"runs on", p.VMM + " (" + accel + ")"},
		{"instead", instead},
		{"size", fmt.Sprintf("%d CPUs, %s of memory, %s of disk at most", p.CPUs, ui.Bytes(p.Memory), ui.Bytes(p.Disk))},
		{"network", p.Network.text()},
		{"mounts", p.mountText()},
		{"ports", joinForwards(p.Forwards)},
		{"services", strings.Join(p.Services, ", ")},
		{"variables", strings.Join(p.Variables, ", ")},
		{"agent gets", strings.Join(p.Credentials, ", ")},
		{"kept from it", keptText(p.Kept)},
		{"you are asked about", strings.Join(p.Asked, ", ")},
		{"image", "release " + p.Image.Release},
	}...)
	if p.Image.BuiltFor != "" {
		fmt.Fprintf(out, "%-9s %s\n", "", "built on this computer: "+ui.Clean(p.Image.BuiltFor))
	}
	for _, part := range p.Image.Parts {
		fmt.Fprintf(out, "  %-8s %-16s %s\n", part.Role, ui.Clean(part.Name), part.what())
	}
	out.fact("download", p.Image.download())
	return out.String()
}

func (p plannedPart) what() string {
	switch p.State {
	case stateCached:
		return "is here"
	case stateVerify:
		return "is here and was touched: every byte is verified first"
	case stateBuild:
		return "build"
	case stateBuilt:
		return "was built here"
	}
	return "fetch " + ui.Bytes(p.Bytes)
}

func (p plannedImage) download() string {
	switch {
	case p.Download == 0:
		return "nothing"
	case p.Seconds == nil:
		return ui.Bytes(p.Download)
	}
	return fmt.Sprintf("%s, about %s at the rate of the last download", ui.Bytes(p.Download),
		ui.Elapsed(time.Duration(*p.Seconds*float64(time.Second))))
}
