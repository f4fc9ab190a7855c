package imagebuild

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
)

// stored turns an error of the file system into a fault that says what to do.
func stored(dir, hint string, err error) error {
	var known *fault.Fault
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fault.New(fault.Storage, "Free some space there. "+hint, "write to %s: %w", dir, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fault.New(fault.Storage, "Check the folder's owner and permissions. "+hint, "write to %s: %w", dir, err)
	}
	return err
}
