//go:build linux

package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/wire"
)

// Table is the guest's mounts. One goroutine at a time may use it.
type Table struct {
	Folder string // where the file system of all mounts is
	// Open opens the port to the host.
	Open func(ctx context.Context) (*Stream, error)

	relay *relay
	there []wire.Mount
}

// Stream is the opened port.
type Stream struct {
	In  io.Reader
	Out link.Port
}

// Set makes the mounts those of the list: further ones are added in its order,
// those that are not in it removed. What failed is named, and tried again by the
// next Set.
func (t *Table) Set(ctx context.Context, list []wire.Mount) error {
	if len(list) > 0 {
		if err := t.connect(ctx); err != nil {
			return err
		}
	}
	var errs []error
	var left []wire.Mount
	for _, m := range slices.Backward(t.there) {
		if slices.Contains(list, m) {
			left = append(left, m)
		} else if err := unbind(m); err != nil {
			errs, left = append(errs, err), append(left, m)
		}
	}
	slices.Reverse(left)
	t.there = left
	for _, m := range list {
		if slices.Contains(t.there, m) {
			continue
		}
		if err := t.bind(m); err != nil {
			errs = append(errs, err)
			continue
		}
		t.there = append(t.there, m)
	}
	return errors.Join(errs...)
}

// connect mounts the file system and begins to relay, once.
func (t *Table) connect(ctx context.Context) error {
	if t.relay != nil {
		return nil
	}
	stream, err := t.Open(ctx)
	if err != nil {
		return fmt.Errorf("open the port of mounts: %w", err)
	}
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		_ = stream.Out.Close()
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	if err := t.mount(device); err != nil {
		_ = unix.Close(device)
		_ = stream.Out.Close()
		return err
	}
	if t.relay, err = newRelay(device, stream); err != nil {
		return errors.Join(err, unix.Unmount(t.Folder, unix.MNT_DETACH), unix.Close(device), stream.Out.Close())
	}
	t.relay.start()
	return t.readAhead()
}

// Break ends the file system of all mounts, after the port to the host was taken away:
// the next Set begins anew. Programs get errors from what they have open in it.
func (t *Table) Break() error {
	if t.relay == nil {
		return nil
	}
	var errs []error
	for _, m := range slices.Backward(t.there) {
		errs = append(errs, unbind(m))
	}
	// By force: whoever waits for the host waits no longer, and the relay neither.
	if err := unix.Unmount(t.Folder, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		errs = append(errs, fmt.Errorf("end the file system of mounts: %w", err))
	}
	t.relay.end()
	t.relay.running.Wait()
	t.relay, t.there = nil, nil
	return errors.Join(errs...)
}

func (t *Table) mount(device int) error {
	if err := os.MkdirAll(t.Folder, 0o755); err != nil {
		return fmt.Errorf("make folder of mounts: %w", err)
	}
	data := "fd=" + strconv.Itoa(device) + ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=" +
		strconv.Itoa(maxData)
	if err := unix.Mount("smolvm", t.Folder, "fuse", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mount the file system of mounts: %w", err)
	}
	return nil
}

// readAheadKiB is as much as one read may ask for: by default the kernel asks for
// 128 KiB at a time, and each request costs two machines a wake-up.
const readAheadKiB = maxData >> 10

func (t *Table) readAhead() error {
	var st unix.Stat_t
	if err := unix.Stat(t.Folder, &st); err != nil {
		return fmt.Errorf("look at the file system of mounts: %w", err)
	}
	file := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	if err := os.WriteFile(file, []byte(strconv.Itoa(readAheadKiB)), 0); err != nil {
		return fmt.Errorf("let mounts read ahead: %w", err)
	}
	return nil
}

// bind shows an entry at its target.
func (t *Table) bind(m wire.Mount) error {
	if err := makeTarget(m.Target, m.File); err != nil {
		return fmt.Errorf("make mount point %s: %w", m.Target, err)
	}
	if err := unix.Mount(filepath.Join(t.Folder, m.ID), m.Target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount at %s: %w", m.Target, err)
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV)
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount("", m.Target, "", flags, ""); err != nil {
		return errors.Join(fmt.Errorf("mount at %s: %w", m.Target, err), unbind(m))
	}
	return nil
}

// unbind removes a mount at once; programs that use it keep what they have open.
func unbind(m wire.Mount) error {
	err := unix.Unmount(m.Target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // somebody was faster
		return fmt.Errorf("unmount %s: %w", m.Target, err)
	}
	return nil
}

// makeTarget makes the folder or file to mount on, and the folders around it,
// which belong to whom the first that was there belongs.
func makeTarget(path string, file bool) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir() == file:
		if file {
			return errors.New("there is a folder")
		}
		return errors.New("there is a file")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if err := makeTargetFolder(parent); err != nil {
		return err
	}
	if file {
		err = os.WriteFile(path, nil, 0o644)
	} else {
		err = os.Mkdir(path, 0o755)
	}
	if err != nil {
		return err
	}
	return inherit(path, parent)
}

func makeTargetFolder(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	return makeTarget(path, false)
}

// inherit gives a path its folder's owner.
func inherit(path, parent string) error {
	info, err := os.Stat(parent)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 && owner.Gid == 0 {
		return nil
	}
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}
