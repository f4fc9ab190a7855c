// Package login reads the login files of the user's agents, and replaces them by
// those that an agent in a sandbox renewed.
//
// Inputs are the user's home folder and paths below it; the output is a file's
// content, or the file replaced in one step. After a crash the old one or the new
// one is there, whole, and maybe a temporary file beside it.
package login

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/preset"
)

// Max bounds a login file: they take a few KiB.
const Max = 32 << 10

// Read reads a login file below the home folder. Keys are never logins, whatever a
// link says.
func Read(home, file string) ([]byte, error) {
	if home == "" {
		return nil, fs.ErrNotExist
	}
	real, err := filepath.EvalSymlinks(filepath.Join(home, file))
	if err != nil {
		return nil, err
	}
	if home, err = filepath.EvalSymlinks(home); err != nil {
		return nil, err
	}
	if below, err := filepath.Rel(home, real); err == nil && filepath.IsLocal(below) {
		if err := preset.CheckLogin(below); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Size() > Max:
		return nil, fmt.Errorf("it has %d bytes, which no login has", info.Size())
	}
	return io.ReadAll(io.LimitReader(f, Max))
}

// Renew replaces a login file by content, which an agent has, if ours is still what
// it was given, whose digest given is. It says whether it did.
func Renew(home, file string, content []byte, given string) (bool, error) {
	sum := digest(content)
	if sum == given {
		return false, nil
	}
	ours, err := Read(home, file)
	switch {
	case err != nil:
		return false, err
	case digest(ours) == sum:
		return false, nil
	case digest(ours) != given:
		return false, errors.New("it was changed here too")
	case len(content) == 0 || len(content) > Max || json.Valid(ours) && !json.Valid(content):
		return false, errors.New("what the sandbox has is no login any more")
	}
	path, err := filepath.EvalSymlinks(filepath.Join(home, file))
	if err != nil {
		return false, err
	}
	return true, replace(path, content)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// replace replaces a file in one step; its owner alone may read it.
func replace(path string, content []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".smolvm-login-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // not there any more when all went well
	_, err = temp.Write(content)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return fmt.Errorf("replace it: %w", err)
	}
	return nil
}
