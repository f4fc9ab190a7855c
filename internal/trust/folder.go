package trust

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// ErrPlanted is a folder of the memory that somebody else may have put there, or
// can write to: what is in it says nothing, and nothing is written through it.
var ErrPlanted = errors.New("not a folder that only its owner can change")

// own checks the folder of all memories and one catalogue's, and reports whether
// the latter is there. SMOLVM_HOME itself may be a link, what is in it may not.
func (m *Memory) own(folder string) (there bool, err error) {
	for _, dir := range []string{m.dir, folder} {
		info, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false, nil
		case err != nil:
			return false, err
		case info.Mode()&fs.ModeSymlink != 0:
			return false, fault.New(fault.Storage, "Find out who made it, and remove it: it decides which old manifests are refused.",
				"use the memory in %s: it is a symbolic link: %w", dir, ErrPlanted)
		case info.IsDir() && info.Mode().Perm()&0o022 != 0 && os.Chmod(dir, info.Mode().Perm()&^0o022) != nil:
			return false, fault.New(fault.Storage, "Its owner can fix that: chmod go-w "+dir,
				"use the memory in %s: other users can write to it: %w", dir, ErrPlanted)
		}
	}
	return true, nil
}

// shown is an address without the name, password and query that this user may
// need to read it: it is kept on disk and shown.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil || !strings.Contains(address, "://") || u.User == nil && u.RawQuery == "" {
		return address
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}
