package cli

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// openRooms gives the real rooms. Each is opened when it is first asked for.
func (a *App) openRooms() *rooms {
	return &rooms{
		Config:     sync.OnceValues(a.loadConfig),
		AllPresets: sync.OnceValues(func() ([]preset.Preset, error) { return config.Presets(a.Presets) }),
		Sandboxes:  sync.OnceValues(a.openSandboxes),
		Catalogue:  a.loadCatalogue,
		Pull:       a.pull,
		Cached:     a.cached,
		Machine:    a.chooseMachine,
		Able:       a.ableToRun,
		Accel:      a.chooseAccel,
	}
}

func (a *App) openSandboxes() (sandboxes, error) { return nil, errors.New("not yet") }

// chooseMachine decides the VMM and looks at the host.
func (a *App) chooseMachine(backend string) (machine, error) {
	c, err := a.Config()
	if err != nil {
		return machine{}, err
	}
	if backend == "" {
		backend = c.Backend
	}
	if backend, err = config.ParseBackend(backend); err != nil {
		return machine{}, err
	}
	if backend == "" {
		backend = config.QEMU
	}
	return machine{arch: runtime.GOARCH, vmm: backend, cpus: runtime.NumCPU(), memoryMiB: 8192}, nil
}

// emulators are the programs that run guests of an architecture.
var emulators = map[string]process.Tool{"amd64": process.QEMUx86, "arm64": process.QEMUArm}

// ableToRun refuses a host without the VMM, and a state folder in which no
// sandbox can be made.
func (a *App) ableToRun(m machine) error {
	tool, known := emulators[m.arch]
	if !known {
		return fault.New(fault.Host, "Sandboxes run on amd64 and arm64.", "no sandbox runs on %s", m.arch)
	}
	if _, err := a.runner().Find(tool); err != nil {
		return err
	}
	return nil
}

func (a *App) runner() *process.Runner {
	return process.New(process.Options{Environ: a.Environ, Self: a.Self})
}

func (a *App) chooseAccel(ctx context.Context, m machine, kernel string) (vmm.Accel, string, error) {
	return vmm.TCG, "", nil
}
