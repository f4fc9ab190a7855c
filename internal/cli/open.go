package cli

import (
	"errors"
	"sync"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/preset"
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
		Host:       sync.OnceValue(host.Probe),
	}
}

func (a *App) openSandboxes() (sandboxes, error) { return nil, errors.New("not yet") }
