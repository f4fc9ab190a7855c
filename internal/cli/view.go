package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// sandboxView is a sandbox in JSON. Its fields are part of the interface: they
// are added to, never renamed.
type sandboxView struct {
	Name      string           `json:"name"`
	ID        string           `json:"id"`
	State     string           `json:"state"` // running, starting, stopped, broken
	Preset    string           `json:"preset"`
	Directory string           `json:"directory"` // of this computer, that it was made in; empty: none
	Agent     agentView        `json:"agent"`
	Arch      string           `json:"arch"`
	VMM       string           `json:"vmm"`
	Accel     string           `json:"accel"`
	Cage      string           `json:"confinement"` // of the machine monitor: cage, none; empty: not known
	Limits    *limitsView      `json:"limits"`      // of the machine monitor; null: not known
	Release   string           `json:"release"`     // of the image
	Kernel    kernelView       `json:"kernel"`
	CPUs      int              `json:"cpus"`
	MemoryMiB int64            `json:"memory_mib"`
	Memory    *memoryView      `json:"memory"` // null: it does not run, or its monitor does not know
	DiskBytes int64            `json:"disk_bytes"`
	OnDisk    int64            `json:"on_disk_bytes"` // of this computer, without images
	Newer     *newerView       `json:"newer"`         // null: the catalogue seen last has this image
	Created   time.Time        `json:"created"`
	Started   *time.Time       `json:"started"` // null: never
	Stopped   *time.Time       `json:"stopped"` // null: never
	Mounts    []mountView      `json:"mounts"`
	Watch     *watchView       `json:"watch"` // null: it does not run, has no mounts, or is not told of changes in them
	Network   networkView      `json:"network"`
	Ports     []int            `json:"ports"` // TCP, that the preset declares
	Forwards  []forwardView    `json:"forwards"`
	Services  []serviceView    `json:"services"`
	Sessions  []sessionView    `json:"sessions"`
	Keep      bool             `json:"keep"`         // it runs on when nobody uses it
	Idle      *idleView        `json:"idle"`         // null: it does not run
	Unused    bool             `json:"stopped_idle"` // it was stopped because nobody used it
	Troubles  []troubleView    `json:"troubles"`     // of its last run, the worst first
	LastError string           `json:"last_error"`
	Boot      *wire.BootReport `json:"boot"` // null: never became ready
}

// memoryView is what a running guest does with its memory.
type memoryView supervise.Memory

// text is the memory for people; nothing where it is not known.
func (v *memoryView) text() string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf(", of which %s are used and %s lent back to this computer", ui.Bytes(v.Used), ui.Bytes(v.Returned))
}

// watchView is how changes of this computer in mounts are told to a running sandbox.
type watchView supervise.Watch

// text is that for people; nothing where there is nothing to watch.
func (v *watchView) text() string {
	switch {
	case v == nil:
		return ""
	case v.More:
		return fmt.Sprintf("changes of this computer in %d folders are told, in more they are not: let watchers there poll", v.Folders)
	case v.Folders == 1:
		return "changes of this computer are told in one folder, all that the sandbox has listed"
	}
	return fmt.Sprintf("changes of this computer are told in %d folders, all that the sandbox has listed", v.Folders)
}

type agentView struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type kernelView struct {
	Version string `json:"version"`
	StandIn string `json:"stand_in"` // whose kernel stands in for SmolVM's own; empty: ours
}

// serviceView is a program that the guest keeps running.
type serviceView struct {
	Name string   `json:"name"`
	Run  []string `json:"run"`
	Port int      `json:"port"` // 0: none
	Log  string   `json:"log"`  // path in the guest
}

func servicesOf(all []wire.Service) []serviceView {
	views := make([]serviceView, 0, len(all))
	for _, s := range all {
		views = append(views, serviceView{Name: s.Name, Run: s.Run, Port: s.Port, Log: serviceLog(s.Name)})
	}
	return views
}

// forwardsOf are a sandbox's forwards as the record has them; whether each of a
// running one is open, only its supervisor knows.
func forwardsOf(s sandbox.Status) []forwardView {
	views := viewForwards(s.Name, s.Forwards)
	for i := range views {
		if s.State != sandbox.Running {
			views[i].Open, views[i].Reason = false, notRunning
		}
	}
	return views
}

func serviceLog(name string) string { return wire.ServiceLog + "/" + name + ".log" }

func (a *App) viewOf(s sandbox.Status) sandboxView {
	return sandboxView{
		Name: s.Name, ID: s.ID, State: s.State, Preset: s.Preset, Directory: s.Directory,
		Agent: agentView{s.Agent.Name, s.Agent.Version},
		Arch:  s.Arch, VMM: s.VMM, Accel: s.Accel, Cage: s.Confinement, Limits: limitsOf(s.Record), Release: s.Image.Release,
		Kernel: kernelView{s.Image.KernelVersion, s.Image.StandIn},
		CPUs:   s.CPUs, MemoryMiB: s.MemoryMiB, DiskBytes: s.DiskBytes, OnDisk: a.OnDisk(s.Name),
		Newer:   a.SeenLast().viewOf(s.Record),
		Created: s.Created, Started: when(s.Started), Stopped: when(s.Stopped),
		Mounts: mountsOf(s.Mounts), Network: networkOf(s.Network, s.Egress), Ports: append([]int{}, s.Ports...), Forwards: forwardsOf(s), Services: servicesOf(s.Services),
		Sessions: []sessionView{},
		Keep:     s.Keep, Unused: s.StoppedIdle && s.State == sandbox.Stopped,
		Troubles:  troublesOf(s.Troubles),
		LastError: s.LastError, Boot: s.Boot,
	}
}

// when is nil for a time that is not set: JSON's null says so.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// writeNames writes one name a line.
func writeNames(w io.Writer, all []sandbox.Status) error {
	for _, s := range all {
		if _, err := fmt.Fprintln(w, s.Name); err != nil {
			return err
		}
	}
	return nil
}
