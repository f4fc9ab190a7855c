package sparse

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes a new file that shares the blocks of another one.
func Clone(source *os.File, to string) (*os.File, error) {
	target, err := Create(to)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err != nil {
		return nil, errors.Join(err, target.Close(), os.Remove(to))
	}
	return target, nil
}
