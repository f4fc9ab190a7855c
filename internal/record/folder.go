package record

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/smolvm/smolvm/internal/fault"
)

// maxSocketPath is the longest path of a Unix socket in bytes that works
// everywhere: sun_path holds 104 on macOS and 108 on Linux, NUL included; some
// programs append a few characters for a temporary name.
const maxSocketPath = 100

// maxSocketName is the longest name of a socket inside a run folder.
const maxSocketName = 16

// nearIDLen is the number of bytes that name a run folder below home.
const nearIDLen = 4

// Folder names everything that belongs to one sandbox. It is only names: that
// it exists says Book.
type Folder struct {
	dir  string // home/sandboxes/NAME
	home string
	temp string
}

// Dir is the sandbox's folder.
func (f Folder) Dir() string { return f.dir }

// Record is the path of the JSON record.
func (f Folder) Record() string { return f.at("record.json") }

// LockFile is the path of the file whose lock is the sandbox's liveness.
func (f Folder) LockFile() string { return f.at("lock") }

// Scratch is the path of the sandbox's read-write disk.
func (f Folder) Scratch() string { return f.at("scratch.ext4") }

// Snapshot is the folder of the snapshot that a fork runs on from; it is there only
// while forks are made.
func (f Folder) Snapshot() string { return f.at("snapshot") }

// Seed is the path of the NoCloud volume.
func (f Folder) Seed() string { return f.at("seed.img") }

// Initrd is the path of the initial RAM file system.
func (f Folder) Initrd() string { return f.at("initrd.img") }

// Console is the path of the guest's console output.
func (f Folder) Console() string { return f.at("console.log") }

// Log is the path of the supervisor's own log.
func (f Folder) Log() string { return f.at("supervisor.log") }

// NetworkLog is the path of the log of the sandbox's connections.
func (f Folder) NetworkLog() string { return f.at("network.log") }

// SSH is the folder of the sandbox's keys.
func (f Folder) SSH() string { return f.at("ssh") }

// HostKey is the path of the guest's private SSH host key.
func (f Folder) HostKey() string { return f.at("ssh", "host_ed25519") }

// HostKeyPublic is the path of the guest's public SSH host key.
func (f Folder) HostKeyPublic() string { return f.at("ssh", "host_ed25519.pub") }

// ClientKey is the path of the private key that the host logs in with.
func (f Folder) ClientKey() string { return f.at("ssh", "client_ed25519") }

// ClientKeyPublic is the path of the public key that the guest lets in.
func (f Folder) ClientKeyPublic() string { return f.at("ssh", "client_ed25519.pub") }

// KnownHosts is the path of a known_hosts file for the user's own ssh.
func (f Folder) KnownHosts() string { return f.at("ssh", "known_hosts") }

func (f Folder) at(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

// RunDir is the folder of the sandbox's sockets: home/run/ID, or a private
// folder in /tmp when home's path is too long for a socket. It depends only on
// the sandbox's path, so every process finds the same one.
func (f Folder) RunDir() string {
	sum := sha256.Sum256([]byte(f.dir))
	near := filepath.Join(f.home, "run", hex.EncodeToString(sum[:nearIDLen]))
	if len(near)+1+maxSocketName <= maxSocketPath {
		return near
	}
	return filepath.Join(f.farRunDirs(), hex.EncodeToString(sum[:8]))
}

func (f Folder) farRunDirs() string {
	return filepath.Join(f.temp, "smolvm-"+strconv.Itoa(os.Getuid()))
}

// MakeRunDir makes the run folder, empty and private, and returns its path. The
// caller holds the sandbox's lock: what an earlier run left there is removed.
func (f Folder) MakeRunDir() (string, error) {
	dir := f.RunDir()
	if err := f.RemoveRunDir(); err != nil {
		return "", err
	}
	if err := privateDir(filepath.Dir(dir)); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", storage(err, "make the socket folder")
	}
	return dir, nil
}

// RemoveRunDir removes the run folder with everything in it.
func (f Folder) RemoveRunDir() error {
	dir := f.RunDir()
	info, err := os.Lstat(filepath.Dir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storage(err, "look at the socket folder")
	}
	if err := checkPrivate(filepath.Dir(dir), info); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return storage(err, "remove the socket folder")
	}
	return nil
}

// privateDir makes a folder that only this user can enter, or makes sure that
// the one that is there is such a folder and no link to elsewhere.
func privateDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return storage(err, "make a private folder")
	}
	info, err := os.Lstat(path)
	if err != nil {
		return storage(err, "look at a private folder")
	}
	return checkPrivate(path, info)
}

// checkPrivate refuses a folder that someone else could have planted or can
// write to. One of our own with loose permissions is tightened.
func checkPrivate(path string, info fs.FileInfo) error {
	const hint = "Remove it, or set SMOLVM_HOME to a folder of your own."
	if !info.IsDir() {
		return fault.New(fault.Storage, hint, "%s is not a folder", path)
	}
	if uid, ok := owner(info); ok && uid != os.Getuid() {
		return fault.New(fault.Storage, hint, "%s belongs to another user (uid %d)", path, uid)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return storage(err, "make a folder private")
	}
	return nil
}

// storage wraps an error of the file system; its text already names the path.
func storage(err error, attempt string) error {
	return fault.New(fault.Storage, "Check the disk's free space and the permissions of the state folder.",
		"%s: %w", attempt, err)
}
