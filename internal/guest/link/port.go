//go:build linux

// Package link is the guest's end of the guest link: one virtio-serial port that
// carries a control stream and the streams the host opens.
//
// It keeps nothing on disk. A session lasts until the host closes the port;
// then the next one begins with a new opening line, whose nonce keeps the bytes
// of the two apart.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/boot"
)

// Port is an open guest link port.
type Port interface {
	io.ReadWriteCloser
}

// FindPort returns the path of the device of the port with that name, empty
// when there is none (yet). sys is the root of sysfs, dev that of devtmpfs.
func FindPort(sys, dev, name string) (string, error) {
	dir := filepath.Join(sys, "class/virtio-ports")
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list ports: %w", err)
	}
	for _, entry := range entries {
		got, err := os.ReadFile(filepath.Join(dir, entry.Name(), "name"))
		if err != nil || strings.TrimSpace(string(got)) != name {
			continue // a port gets its name an instant after it appears
		}
		path := filepath.Join(dev, entry.Name())
		if _, err := os.Stat(path); err != nil {
			return "", nil
		}
		return path, nil
	}
	return "", nil
}

// AwaitPort opens the port with that name as soon as there is one. A machine that is
// kept, or restored, loses its ports and gets others: one that goes away before it is
// open is waited for again.
func AwaitPort(ctx context.Context, name string) (Port, error) {
	var port Port
	err := boot.Await(ctx, func() (there bool, err error) {
		path, err := FindPort("/sys", "/dev", name)
		if err != nil || path == "" {
			return false, err
		}
		port, err = OpenPort(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for port %s: %w", name, err)
	}
	return port, nil
}

// OpenPort opens the port. Go opens it non-blocking, so that reads and writes
// wait in the poller: a write while the host has not opened its end, a read
// while there is nothing. Blocking writes would make the kernel spin until the
// host has taken the bytes.
func OpenPort(path string) (Port, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open guest link: %w", err)
	}
	return file, nil
}
