package cli

import (
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// watchFile reports that the file may have changed, until stop is called. The
// file need not be there yet: its folder is watched. Changes that nobody takes
// become one.
func watchFile(path string) (changes <-chan struct{}, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	events := os.NewFile(uintptr(fd), "inotify") // non-blocking: Close ends a Read
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ATTRIB
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), mask); err != nil {
		_ = events.Close()
		return nil, nil, err
	}
	out := make(chan struct{}, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		buffer := make([]byte, 16<<10)
		for {
			if _, err := events.Read(buffer); err != nil {
				return
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	})
	return out, func() {
		_ = events.Close()
		reader.Wait()
	}, nil
}
