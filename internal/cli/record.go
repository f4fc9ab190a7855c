package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// recording is the absolute path of the file that --record names. It must not be
// there yet, its folder must: whoever makes the file looks again.
func (a *App) recording(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.Directory, path)
	}
	switch _, err := os.Lstat(path); {
	case err == nil:
		return "", fault.New(fault.Conflict, "Name a new file.", "--record: %s is there already", path)
	case !errors.Is(err, fs.ErrNotExist):
		return "", refuse("", "--record: %v", err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return "", refuse("Make it first.", "--record: there is no folder %s", filepath.Dir(path))
	}
	return path, nil
}

// recordable refuses to record what cannot be recorded.
func recordable(s sandbox.Status, path string) error {
	switch {
	case path == "":
		return nil
	case s.State == sandbox.Running:
		return refuse("Stop it first: smolvm stop "+s.Name+".", "--record holds from a start on, but %s runs already", s.Name)
	case !s.Network:
		return refuse("", "--record: sandbox %q has no network", s.Name)
	}
	return nil
}
