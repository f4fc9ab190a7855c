//go:build linux

// Package credential keeps what the host gives of its user's credentials: in a
// tmpfs, for the sandbox's user only. Login files are links from the home folder
// into it, so that an agent that renews its login writes into memory too.
//
// Inputs are the host's messages; outputs are the files and the variables of the
// agent's sessions. Nothing survives the machine but the links, which hold no
// secret and are taken away at the next boot when they lead nowhere.
package credential

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	envFile = "env"  // the variables, JSON
	files   = "home" // the login files, by their paths below the home folder

	// maxFile bounds what is read back: the user of the sandbox may write it.
	maxFile = 256 << 10
)

// Store is a folder with credentials. Its methods are not for concurrent use.
type Store struct {
	Dir   string // where the tmpfs is mounted
	Owner setup.Account
	// Mount mounts a tmpfs at a folder.
	Mount func(dir string) error

	mounted bool
	given   []string // login files that are linked
}

// MountTmpfs mounts a small tmpfs that is never swapped out where the kernel can
// promise that.
func MountTmpfs(dir string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount("tmpfs", dir, "tmpfs", flags, "size=4m,mode=0711,noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", flags, "size=4m,mode=0711")
	}
	return err
}

// Set makes the credentials those that are given. Notes say which login files
// were left out because the sandbox has its own.
func (s *Store) Set(c wire.Credentials) (notes []string, err error) {
	if err := s.prepare(c); err != nil {
		return nil, fmt.Errorf("keep credentials: %w", err)
	}
	home, err := os.OpenRoot(s.Owner.Home)
	if err != nil {
		return nil, fmt.Errorf("keep credentials: %w", err)
	}
	defer home.Close()
	var errs []error
	for _, path := range append(slices.Clone(s.given), c.Withdrawn...) {
		if !slices.ContainsFunc(c.Logins, func(l wire.LoginFile) bool { return l.Path == path }) {
			errs = append(errs, s.withdraw(home, path))
		}
	}
	s.given = nil
	for _, l := range c.Logins {
		own, err := s.give(home, l)
		if own {
			notes = append(notes, fmt.Sprintf("the sandbox has its own ~/%s, which stays in use", l.Path))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("give ~/%s: %w", l.Path, err))
		}
	}
	if s.mounted {
		errs = append(errs, s.writeEnv(c.Env))
	}
	return notes, errors.Join(errs...)
}

// prepare mounts the tmpfs where there is something to keep.
func (s *Store) prepare(c wire.Credentials) error {
	if s.mounted || len(c.Env) == 0 && len(c.Logins) == 0 {
		return nil
	}
	if err := os.MkdirAll(s.Dir, 0o711); err != nil {
		return err
	}
	if err := s.Mount(s.Dir); err != nil {
		return fmt.Errorf("mount memory at %s: %w", s.Dir, err)
	}
	s.mounted = true
	dir := filepath.Join(s.Dir, files)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return s.own(dir)
}

func (s *Store) own(path string) error {
	return os.Lchown(path, int(s.Owner.UID), int(s.Owner.GID))
}

// place is where a login file really is.
func (s *Store) place(path string) string { return filepath.Join(s.Dir, files, path) }

// give writes a login file and links it into the home, unless that has its own.
func (s *Store) give(home *os.Root, l wire.LoginFile) (own bool, err error) {
	if !fs.ValidPath(l.Path) || l.Path == "." {
		return false, errors.New("it is no path below the home folder")
	}
	if own, err := s.link(home, l.Path); own || err != nil {
		return own, err
	}
	s.given = append(s.given, l.Path)
	memory, err := os.OpenRoot(filepath.Join(s.Dir, files))
	if err != nil {
		return false, err
	}
	defer memory.Close()
	if err := s.makeParents(memory, l.Path); err != nil {
		return false, err
	}
	return false, s.write(memory, l.Path, l.Content)
}

// write replaces a file in the tmpfs, in one step.
func (s *Store) write(root *os.Root, path string, content []byte) error {
	temp := path + ".smolvm-new"
	if err := root.RemoveAll(temp); err != nil {
		return err
	}
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chown(int(s.Owner.UID), int(s.Owner.GID)), f.Close()); err != nil {
		return err
	}
	return root.Rename(temp, path)
}

// link puts the link into the home; own says that something else is there.
func (s *Store) link(home *os.Root, path string) (own bool, err error) {
	target, err := home.Readlink(path)
	switch {
	case err == nil && s.ours(target):
		return false, nil
	case err == nil:
		return true, nil
	case !errors.Is(err, fs.ErrNotExist):
		if _, there := home.Lstat(path); there == nil {
			return true, nil
		}
		return false, err
	}
	if err := s.makeParents(home, path); err != nil {
		return false, err
	}
	if err := home.Symlink(s.place(path), path); err != nil {
		return false, err
	}
	return false, home.Lchown(path, int(s.Owner.UID), int(s.Owner.GID))
}

// ours tells whether a link leads to the credentials.
func (s *Store) ours(target string) bool { return strings.HasPrefix(target, s.Dir+"/") }

// makeParents makes the folders above a path that are missing.
func (s *Store) makeParents(root *os.Root, path string) error {
	for i, c := range path {
		if c != '/' {
			continue
		}
		err := root.Mkdir(path[:i], 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = root.Lchown(path[:i], int(s.Owner.UID), int(s.Owner.GID))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// withdraw takes a login file away again, and the link that led to it.
func (s *Store) withdraw(home *os.Root, path string) error {
	if !fs.ValidPath(path) || path == "." {
		return nil
	}
	if target, err := home.Readlink(path); err == nil && s.ours(target) {
		if err := home.Remove(path); err != nil {
			return err
		}
	}
	if s.mounted {
		return os.RemoveAll(s.place(path))
	}
	return nil
}

// writeEnv keeps the variables.
func (s *Store) writeEnv(env map[string]string) error {
	raw, err := json.Marshal(env)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return s.write(root, envFile, raw)
}

// Env are the variables of the agent's sessions. A file that the sandbox's user
// spoiled gives none.
func (s *Store) Env() map[string]string {
	raw, err := s.read(envFile)
	if err != nil {
		return nil
	}
	var env map[string]string
	if json.Unmarshal(raw, &env) != nil {
		return nil
	}
	for name, value := range env {
		if !setup.ValidEnvName(name) || strings.ContainsRune(value, 0) {
			delete(env, name)
		}
	}
	return env
}

// Logins are the login files that were given, as they are now.
func (s *Store) Logins() []wire.LoginFile {
	var all []wire.LoginFile
	for _, path := range s.given {
		content, err := s.read(filepath.Join(files, path))
		more := append(all, wire.LoginFile{Path: path, Content: content})
		if err == nil && (wire.Credentials{Logins: more}).Size() <= wire.MaxCredentials {
			all = more
		}
	}
	return all
}

// read reads a file of the tmpfs, which its user may have replaced by anything.
func (s *Store) read(path string) ([]byte, error) {
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, errors.New("it is no file of a credential's size")
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}
