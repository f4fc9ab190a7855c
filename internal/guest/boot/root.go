//go:build linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/layer"
	"github.com/smolvm/smolvm/internal/wire"
)

// Where things are mounted while the initramfs is the root.
const (
	layersDir  = "/layers"
	scratchDir = "/scratch"
	rootDir    = "/root"
)

// ScratchMount is where pack mode shows the scratch inside the new root.
const ScratchMount = "/run/smolvm/scratch"

// Builder joins drives to a root file system.
type Builder struct {
	Options Options
	Drives  Drives
	Modules *Modules
	Run     Runner            // starts mkfs.ext4 of the base
	Working func(text string) // told about long steps; never nil
	Logf    func(format string, args ...any)
}

// Root is a built root file system, not yet switched to.
type Root struct {
	Dir     string
	drive   string   // of the scratch
	scratch *os.File // keeps the scratch reachable for the remount at the end
	settle  func() error

	generation int // of the upper directory
}

// Build mounts everything the mode asks for.
func (b Builder) Build(ctx context.Context) (*Root, error) {
	layers, scratch, err := b.mountDrives(ctx)
	if err != nil {
		return nil, err
	}
	root := &Root{Dir: rootDir, drive: b.Drives[wire.ScratchRole], scratch: scratch, generation: b.Options.Generation, settle: func() error { return nil }}
	if err := os.MkdirAll(rootDir, 0o755); err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	if err := freeReserve(scratchDir); err != nil {
		return nil, err
	}
	switch b.Options.Mode {
	case wire.ModeBootstrap:
		err = b.bootstrap()
	case wire.ModePack:
		err = b.packRoot(ctx, layers)
	default:
		err = b.overlay(ctx, layers, scratchDir, "redirect_dir=on,index=on")
	}
	if err == nil && b.Options.Mode == wire.ModeRun {
		if err = writable(rootDir); err == nil {
			root.settle, err = bindHomes(rootDir, scratchDir)
		}
	}
	if err != nil {
		return nil, err
	}
	return root, nil
}

// mountDrives mounts layers and scratch side by side, unless the scratch must
// first be formatted with the layers' tools.
func (b Builder) mountDrives(ctx context.Context) (layers []string, scratch *os.File, err error) {
	drive, ok := b.Drives[wire.ScratchRole]
	if !ok {
		return nil, nil, errors.New("there is no scratch drive")
	}
	state, err := inspect(drive)
	if err != nil {
		return nil, nil, err
	}
	if state != ext4 {
		if layers, err = b.mountLayers(); err == nil {
			err = b.prepare(ctx, state, layers, drive)
		}
		if err == nil {
			scratch, err = b.mountScratch(drive)
		}
		return layers, scratch, err
	}
	var group errgroup.Group
	group.Go(func() (err error) {
		layers, err = b.mountLayers()
		return err
	})
	group.Go(func() (err error) {
		scratch, err = b.mountScratch(drive)
		return err
	})
	return layers, scratch, group.Wait()
}

// mountLayers mounts the layers and returns their mount points from the bottom up.
func (b Builder) mountLayers() ([]string, error) {
	var dirs []string
	for i, role := range b.Options.Layers() {
		dir := filepath.Join(layersDir, strconv.Itoa(i))
		m := mount{b.Drives[role], dir, "ext4", unix.MS_RDONLY | unix.MS_NOATIME, "", false}
		if err := m.do(); err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	if len(dirs) == 0 && (b.Options.Mode == wire.ModeRun || b.Options.Mode == wire.ModeBuild) {
		return nil, fmt.Errorf("mode %s needs at least one layer drive", b.Options.Mode)
	}
	return dirs, nil
}

// overlay mounts the layers under the writable half in base at rootDir.
func (b Builder) overlay(ctx context.Context, layers []string, base, options string) error {
	upper := filepath.Join(base, wire.Generation(wire.ScratchUpper, b.Options.Generation))
	work := filepath.Join(base, wire.Generation(wire.ScratchWork, b.Options.Generation))
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make overlay: %w", err)
		}
	}
	lower := ""
	for _, dir := range layers { // overlayfs wants the topmost first
		lower = strings.TrimSuffix(dir+":"+lower, ":")
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	if options != "" {
		data += "," + options
	}
	err := b.Modules.Retry(ctx, mount{"overlay", rootDir, "overlay", unix.MS_NOATIME, data, false}.do)
	if errors.Is(err, unix.ESTALE) { // index=on remembers
		return fmt.Errorf("the scratch disk was used with other layers than these: %w", err)
	}
	return err
}

// packRoot shows the layers' tools, writes going to memory, or, where there is
// no layer below, the packed tree itself.
func (b Builder) packRoot(ctx context.Context, layers []string) error {
	if len(layers) == 0 {
		return bindUpper()
	}
	const memory = "/packtmp"
	if err := (mount{"tmpfs", memory, "tmpfs", 0, "mode=0755", false}).do(); err != nil {
		return err
	}
	return b.overlay(ctx, layers, memory, "")
}

func bindUpper() error {
	return Bind(filepath.Join(scratchDir, wire.ScratchUpper), rootDir)
}

// extracted marks, on the scratch, that the whole archive is in upper.
const extracted = "extracted"

// bootstrap extracts the archive on the extra drive, unless an earlier boot did.
func (b Builder) bootstrap() error {
	mark := filepath.Join(scratchDir, extracted)
	if _, err := os.Stat(mark); err == nil {
		return bindUpper()
	}
	upper := filepath.Join(scratchDir, wire.ScratchUpper)
	if err := os.RemoveAll(upper); err != nil {
		return fmt.Errorf("discard half-extracted tree: %w", err)
	}
	if err := os.Mkdir(upper, 0o755); err != nil {
		return fmt.Errorf("make tree: %w", err)
	}
	archive, err := os.Open(b.Drives[wire.ExtraRole])
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer archive.Close()
	b.Working("extracting the archive")
	stats, err := layer.Extract(archive, upper)
	if err != nil {
		return fmt.Errorf("extract archive: %w", err)
	}
	b.Working(fmt.Sprintf("extracted %d entries, %d MiB", stats.Entries, stats.Bytes>>20))
	if err := syncFS(scratchDir); err != nil {
		return err
	}
	if err := touch(mark); err != nil {
		return fmt.Errorf("mark tree as complete: %w", err)
	}
	return bindUpper()
}

// Settle makes homes durable that this boot made. Call it once, before anything is
// mounted on one.
func (r *Root) Settle() error { return r.settle() }

// ShowScratch mounts the scratch at ScratchMount of the present root.
func (r *Root) ShowScratch() error {
	if err := os.MkdirAll(ScratchMount, 0o700); err != nil {
		return fmt.Errorf("show scratch: %w", err)
	}
	source := fmt.Sprintf("/proc/self/fd/%d", r.scratch.Fd())
	if err := unix.Mount(source, ScratchMount, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show scratch: %w", err)
	}
	return nil
}

// Close makes the file systems clean: root and scratch become read-only, which
// writes their journals out. No program may run any more and all must be synced.
func (r *Root) Close() error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make root read-only: %w", err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", r.scratch.Fd())
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make scratch read-only: %w", err)
	}
	return nil
}

func syncFS(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	defer dir.Close()
	return syncFile(dir)
}

// syncFile writes out the whole file system that the open file is on.
func syncFile(file *os.File) error {
	if err := unix.Syncfs(int(file.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", file.Name(), err)
	}
	return nil
}
