//go:build linux

package setup

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/wire"
)

// writeFile replaces a file at once: readers see the old or the new content. A
// file that has the content already is left alone, which spares the copy-up of
// an overlay at every boot after the first.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) && regular(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp := path + ".smolvm-new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(mode), file.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func regular(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// writeSeedFile writes one file of the seed's write_files.
func writeSeedFile(root string, f wire.WriteFile) error {
	content := []byte(f.Content)
	switch f.Encoding {
	case "", "text/plain":
	case "b64", "base64":
		var err error
		if content, err = base64.StdEncoding.DecodeString(f.Content); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	default:
		return fmt.Errorf("write %s: unknown encoding %q", f.Path, f.Encoding)
	}
	mode, err := parseMode(f.Permissions)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	uid, gid, err := parseOwner(root, f.Owner)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	path := filepath.Join(root, f.Path)
	if err := writeFile(path, content, mode); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	// A change of owner clears the set-id bits, so the mode comes again.
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, mode)); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return nil
}

func parseMode(text string) (fs.FileMode, error) {
	if text == "" {
		return 0o644, nil
	}
	bits, err := strconv.ParseUint(text, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("bad permissions %q", text)
	}
	mode := fs.FileMode(bits & 0o777)
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return mode, nil
}

// parseOwner takes "user" or "user:group" by name; without a group it is the
// user's own. Empty leaves the owner as it is made.
func parseOwner(root, owner string) (uid, gid int, err error) {
	if owner == "" {
		return -1, -1, nil
	}
	user, group, _ := strings.Cut(owner, ":")
	account, err := FindAccount(root, user)
	if err != nil {
		return 0, 0, err
	}
	if group == "" || group == user {
		return int(account.UID), int(account.GID), nil
	}
	id, err := findGroup(root, group)
	return int(account.UID), id, err
}

func findGroup(root, name string) (int, error) {
	id := -1
	err := eachLine(filepath.Join(root, "etc/group"), func(fields []string) bool {
		if len(fields) < 3 || fields[0] != name {
			return true
		}
		if n, err := strconv.ParseUint(fields[2], 10, 31); err == nil {
			id = int(n)
		}
		return id < 0
	})
	if err == nil && id < 0 {
		err = fmt.Errorf("there is no group %q", name)
	}
	return id, err
}
