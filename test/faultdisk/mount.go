//go:build linux

package faultdisk

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxWrite is the longest single write, in bytes.
const maxWrite = 512 << 10

// Usable tells why this process cannot mount a Disk, for tests to skip with.
func Usable() error {
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("needs FUSE: %w", err)
	}
	if err := device.Close(); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("needs FUSE: only root mounts without fusermount")
	}
	return nil
}

// Mount shows the disk in a folder.
func (d *Disk) Mount(dir string) error {
	forever, never := time.Hour, time.Duration(0)
	server, err := fs.Mount(dir, &node{disk: d, file: d.root}, &fs.Options{
		EntryTimeout: &forever, NegativeTimeout: &never, AttrTimeout: &never, NullPermissions: true,
		RootStableAttr: &fs.StableAttr{Ino: d.root.number, Gen: 1},
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, AllowOther: true, Options: []string{"default_permissions"},
			FsName: "faultdisk", Name: "faultdisk", MaxWrite: maxWrite, DisableXAttrs: true, DisableReadDirPlus: true, DisableSplice: true,
		},
	})
	if err != nil {
		return fmt.Errorf("mount a fault disk at %s: %w", dir, err)
	}
	d.dir, d.server = dir, server
	return nil
}

// Unmount takes the disk out of its folder. What programs have open there is
// lost to them. It may be called twice.
func (d *Disk) Unmount() error {
	if d.server == nil {
		return nil
	}
	if err := unix.Unmount(d.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	d.server.Wait()
	d.dir, d.server = "", nil
	return nil
}
