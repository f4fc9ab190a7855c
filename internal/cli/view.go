package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/wire"
)

// sandboxView is a sandbox in JSON. Its fields are part of the interface: they
// are added to, never renamed.
type sandboxView struct {
	Name      string           `json:"name"`
	ID        string           `json:"id"`
	State     string           `json:"state"` // running, starting, stopped, broken
	Preset    string           `json:"preset"`
	Agent     agentView        `json:"agent"`
	Arch      string           `json:"arch"`
	VMM       string           `json:"vmm"`
	Accel     string           `json:"accel"`
	Release   string           `json:"release"` // of the image
	Kernel    kernelView       `json:"kernel"`
	CPUs      int              `json:"cpus"`
	MemoryMiB int64            `json:"memory_mib"`
	DiskBytes int64            `json:"disk_bytes"`
	Created   time.Time        `json:"created"`
	Started   *time.Time       `json:"started"` // null: never
	Stopped   *time.Time       `json:"stopped"` // null: never
	LastError string           `json:"last_error"`
	Boot      *wire.BootReport `json:"boot"` // null: never became ready
}

type agentView struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type kernelView struct {
	Version string `json:"version"`
	StandIn string `json:"stand_in"` // whose kernel stands in for SmolVM's own; empty: ours
}

func viewOf(s sandbox.Status) sandboxView {
	return sandboxView{
		Name: s.Name, ID: s.ID, State: s.State, Preset: s.Preset,
		Agent: agentView{s.Agent.Name, s.Agent.Version},
		Arch:  s.Arch, VMM: s.VMM, Accel: s.Accel, Release: s.Image.Release,
		Kernel: kernelView{s.Image.KernelVersion, s.Image.StandIn},
		CPUs:   s.CPUs, MemoryMiB: s.MemoryMiB, DiskBytes: s.DiskBytes,
		Created: s.Created, Started: when(s.Started), Stopped: when(s.Stopped),
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
