// Package disk makes the disks that belong to one sandbox: its scratch, the
// read-write disk, and its initial RAM file system, which carries our guest
// agent and the kernel's modules.
//
// Inputs are a path, a size and bytes; outputs are files that their owner alone
// can read. Each is made beside its final name, with ".new" appended, and renamed
// when whole. A crash leaves nothing new under the final name; what it leaves
// under the other one the next attempt removes. Two may not make the same file
// at once: callers hold the sandbox's lock.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

// create makes a file with the contents that fill gives it. It appears under
// path, whole, when everything worked, and replaces what is there.
func create(path string, fill func(f *os.File) error) error {
	temp := path + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // never a file that is there
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// requireSpace fails before the first byte when the disk below dir cannot take
// need bytes.
func requireSpace(dir string, need int64) error {
	free, err := freeBytes(dir)
	if err != nil {
		return fault.New(fault.Storage, "", "look at the free space of %s: %w", dir, err)
	}
	if free < need {
		return noSpace(dir, need, free, syscall.ENOSPC)
	}
	return nil
}

const spaceHint = "Free some space (smolvm prune helps), or set SMOLVM_HOME to a larger disk."

// Full makes an error that tells of a full disk a Storage fault with a hint; other
// errors stay as they are. Machine monitors tell it in words.
func Full(err error) error {
	if err == nil || !isFull(err) && !strings.Contains(err.Error(), "No space left on device") {
		return err
	}
	return fault.New(fault.Storage, spaceHint, "%w", err)
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func noSpace(dir string, need, free int64, cause error) error {
	return fault.New(fault.Storage, spaceHint,
		"%s needs %d bytes and has %d free: %w", dir, need, free, cause)
}

// freeBytes is what an unprivileged user may still write to the disk below dir.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// explain turns an error of making a file of need bytes into a fault that says
// what to do about it.
func explain(err error, what, path string, need int64) error {
	if err == nil || fault.CodeOf(err) != fault.Internal {
		return err
	}
	dir := filepath.Dir(path)
	free, freeErr := freeBytes(dir)
	if freeErr == nil && (isFull(err) || free < need) { // mkfs says so only in words
		return noSpace(dir, need, free, err)
	}
	return fault.New(fault.Storage, "Check the permissions of the state folder.", "make %s %s: %w", what, path, err)
}

// appendFile copies a regular file to the end of w.
func appendFile(w io.Writer, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	_, err = io.Copy(w, f)
	return err
}
