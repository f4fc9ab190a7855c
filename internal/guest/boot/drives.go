//go:build linux

package boot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Drives maps a role to the path of its block device.
type Drives map[string]string

// FindDrives waits until every role has its block device. sys is the root of
// sysfs and dev that of devtmpfs.
func FindDrives(ctx context.Context, sys, dev string, roles []string) (Drives, error) {
	var found Drives
	err := Await(ctx, func() (bool, error) {
		disks, err := readDisks(sys)
		if err != nil {
			return false, err
		}
		found = assign(disks, roles, dev)
		for _, path := range found {
			if ready, err := openable(path); !ready {
				return false, err
			}
		}
		return len(found) == len(roles), nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for drives %s, found %d of %d: %w",
			strings.Join(roles, ","), len(found), len(roles), err)
	}
	return found, nil
}

// openable tells whether a disk that sysfs shows can be used already: the kernel
// makes its node an instant later, and lets it be opened (ENXIO until then)
// another instant later, just before the event that it is there.
func openable(path string) (bool, error) {
	file, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, file.Close()
}

// disk is one whole disk as sysfs shows it.
type disk struct{ name, serial string }

// readDisks lists the virtio disks in the order of their letters, which is the
// order in which the VMM placed them.
func readDisks(sys string) ([]disk, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []disk
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), "vd") {
			continue
		}
		serial, _ := os.ReadFile(filepath.Join(sys, "block", entry.Name(), "serial"))
		disks = append(disks, disk{entry.Name(), strings.TrimSpace(string(serial))})
	}
	// vdb comes before vdaa.
	slices.SortFunc(disks, func(a, b disk) int {
		return cmp.Or(cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return disks, nil
}

// assign gives every role its disk: by serial number, or, where the VMM gives
// disks none of our serial numbers, by place. The two are never mixed.
func assign(disks []disk, roles []string, dev string) Drives {
	found := Drives{}
	for _, d := range disks {
		if slices.Contains(roles, d.serial) {
			found[d.serial] = filepath.Join(dev, d.name)
		}
	}
	if len(found) > 0 || len(disks) < len(roles) {
		return found
	}
	for i, role := range roles {
		found[role] = filepath.Join(dev, disks[i].name)
	}
	return found
}
