//go:build linux

package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/smolvm/smolvm/internal/guest/layer"
	"github.com/smolvm/smolvm/internal/wire"
)

// home is a folder that lives on the scratch itself, so that it outlives a
// change of the layers.
type home struct {
	name   string // on the scratch
	target string // in the root
	uid    int    // of a folder that the layers do not have
	mode   fs.FileMode
}

func homes() []home {
	return []home{
		{wire.ScratchHome, wire.AgentHome, wire.AgentUID, 0o755},
		{wire.ScratchWorkspace, wire.Workspace, wire.AgentUID, 0o755},
		// Overlays of containers cannot stand on the root, which is one.
		{wire.ScratchDocker, "/var/lib/docker", 0, 0o710},
		{wire.ScratchContainers, "/var/lib/containers", 0, 0o700},
		{wire.ScratchContainerd, "/var/lib/containerd", 0, 0o711},
	}
}

// Suffixes of homes that have no name yet.
const (
	halfSeeded = ".part" // it is being filled: what is in it may be half
	unnamed    = ".new"  // the same of earlier agents; see adoptHomes
)

// bindHomes binds the homes into the root, copying at the first boot what the
// layers have there. The copy is made in a folder ending in halfSeeded; the returned
// function makes it durable and only then gives it its name, so that a machine
// killed in between seeds again and never sees half a home. It has to be called before
// anything is mounted on a home: such a folder cannot be renamed.
func bindHomes(root, scratch string) (settle func() error, err error) {
	if err := adoptHomes(scratch); err != nil {
		return nil, err
	}
	var fresh []string
	for _, h := range homes() {
		dir := filepath.Join(scratch, h.name)
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			fresh = append(fresh, dir)
			dir += halfSeeded
			if err := h.seed(root, dir); err != nil {
				return nil, err
			}
		}
		if err := Bind(dir, filepath.Join(root, h.target)); err != nil {
			return nil, err
		}
	}
	if len(fresh) == 0 {
		return func() error { return nil }, nil
	}
	base, err := os.OpenRoot(scratch) // stays reachable after the switch of the root
	if err != nil {
		return nil, fmt.Errorf("open scratch: %w", err)
	}
	return func() error { return commit(base, fresh) }, nil
}

// adoptHomes names what earlier agents left unnamed, and filled anew at each boot: they
// renamed only after a folder of the host was mounted on the workspace, which failed. One
// home with a name shows that all had been written to the disk, as that came first.
func adoptHomes(scratch string) error {
	there := func(name string) bool {
		_, err := os.Lstat(filepath.Join(scratch, name))
		return err == nil
	}
	written := slices.ContainsFunc(homes(), func(h home) bool { return there(h.name) })
	for _, h := range homes() {
		var err error
		old := filepath.Join(scratch, h.name+unnamed)
		switch {
		case !written:
			err = os.RemoveAll(old)
		case !there(h.name) && there(h.name+unnamed):
			err = os.Rename(old, filepath.Join(scratch, h.name))
		}
		if err != nil {
			return fmt.Errorf("look after %s of an earlier boot: %w", h.target, err)
		}
	}
	return nil
}

func (h home) seed(root, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("discard half-seeded %s: %w", h.target, err)
	}
	source := filepath.Join(root, h.target)
	if info, err := os.Lstat(source); err == nil && info.IsDir() {
		if err := layer.CopyTree(source, dir); err != nil {
			return fmt.Errorf("seed %s: %w", h.target, err)
		}
		return nil
	}
	if err := os.Mkdir(dir, h.mode); err != nil {
		return fmt.Errorf("make %s: %w", h.target, err)
	}
	if err := os.Chown(dir, h.uid, h.uid); err != nil {
		return fmt.Errorf("make %s: %w", h.target, err)
	}
	return nil
}

// commit writes the scratch to the disk and then renames the seeded folders.
func commit(base *os.Root, fresh []string) error {
	defer base.Close()
	dir, err := base.Open(".")
	if err != nil {
		return fmt.Errorf("settle homes: %w", err)
	}
	defer dir.Close()
	if err := syncFile(dir); err != nil {
		return fmt.Errorf("settle homes: %w", err)
	}
	for _, name := range fresh {
		name = filepath.Base(name)
		if err := base.Rename(name+halfSeeded, name); err != nil {
			return fmt.Errorf("settle homes: %w", err)
		}
	}
	return nil
}
