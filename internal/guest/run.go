//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/boot"
	"github.com/smolvm/smolvm/internal/guest/layer"
	"github.com/smolvm/smolvm/internal/wire"
)

// maxOutput bounds what is kept of a helper program's messages.
const maxOutput = 8 << 10

// pack writes the scratch's upper directory to the extra drive and tells the
// host how long it is.
func (a *agent) pack(ctx context.Context) error {
	if !a.options.Has(wire.ExtraRole) {
		return errors.New("pack mode needs the drive " + wire.ExtraRole)
	}
	if a.options.Epoch.IsZero() {
		return errors.New("pack mode needs " + wire.OptEpoch)
	}
	if err := a.root.ShowScratch(); err != nil {
		return err
	}
	size, err := layer.Pack{
		Tree:    filepath.Join(boot.ScratchMount, wire.ScratchUpper),
		Device:  a.drives[wire.ExtraRole],
		Base:    len(a.options.Layers()) == 0,
		Epoch:   a.options.Epoch,
		Run:     func(ctx context.Context, env, argv []string) error { return a.runIn(ctx, "", env, argv) },
		Working: a.working,
	}.Write(ctx)
	if err != nil {
		return err
	}
	a.farewell(wire.Message{Type: wire.Packed, Bytes: size}, farewell)
	return nil
}

// runIn runs a program of the image, with its root changed unless chroot is
// empty, and waits for it. What it printed is in the error.
func (a *agent) runIn(ctx context.Context, chroot string, env, argv []string) error {
	path, err := find(chroot, argv[0])
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	process, err := a.reaper.Start(path, argv, &syscall.ProcAttr{
		Dir: "/", Env: env,
		Files: []uintptr{null.Fd(), theirs.Fd(), theirs.Fd()},
		Sys:   &syscall.SysProcAttr{Chroot: chroot, Setsid: true},
	})
	theirs.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = process.SignalGroup(unix.SIGKILL) })
	defer stop()
	said, _ := io.ReadAll(io.LimitReader(ours, maxOutput))
	_, _ = io.Copy(io.Discard, ours)
	if code := process.Wait().Code(); code != 0 {
		return fmt.Errorf("%s ended with status %d: %s", argv[0], code, strings.TrimSpace(string(said)))
	}
	return nil
}

// find looks a program up in the image. The path it returns is as the program's
// own root has it.
func find(chroot, name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(filepath.Join("/", chroot, path)); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("the image has no program %s", name)
}
