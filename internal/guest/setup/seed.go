//go:build linux

// Package setup applies a sandbox's seed to its root file system: host name,
// accounts, keys, certificates, files, and the environment of sessions.
//
// Input is the NoCloud volume; output are files in /etc and /run and values for
// the SSH server. Everything is written anew at every boot from the same seed,
// so a boot that was cut short leaves nothing to repair. The SSH host key stays
// in memory.
package setup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// MaxDocument bounds each of the seed's documents in bytes. Certificates and
// files of a few megabytes fit.
const MaxDocument = 8 << 20

// Seed is the decoded seed.
type Seed struct {
	User    wire.UserData
	Meta    wire.MetaData
	Network wire.NetworkConfig
}

// header opens every cloud-config document.
const header = "#cloud-config\n"

// ReadSeed mounts the seed's FAT volume at mountPoint, decodes it and unmounts it.
func ReadSeed(device, mountPoint string) (seed Seed, err error) {
	if err := os.MkdirAll(mountPoint, 0o700); err != nil {
		return Seed{}, fmt.Errorf("read seed: %w", err)
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(device, mountPoint, "vfat", flags, "umask=077,iocharset=ascii"); err != nil {
		return Seed{}, fmt.Errorf("mount seed %s: %w", device, err)
	}
	defer func() {
		if e := unix.Unmount(mountPoint, 0); e != nil && err == nil {
			err = fmt.Errorf("unmount seed: %w", e)
		}
	}()
	return DecodeSeed(os.DirFS(mountPoint))
}

// DecodeSeed decodes the three documents at the root of files. The network
// configuration may be missing.
func DecodeSeed(files fs.FS) (Seed, error) {
	var seed Seed
	if err := decodeFile(files, "user-data", &seed.User); err != nil {
		return Seed{}, err
	}
	if err := decodeFile(files, "meta-data", &seed.Meta); err != nil {
		return Seed{}, err
	}
	err := decodeFile(files, "network-config", &seed.Network)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Seed{}, err
	}
	return seed, seed.check()
}

func decodeFile(files fs.FS, name string, into any) error {
	file, err := files.Open(name)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxDocument+1))
	if err != nil {
		return fmt.Errorf("seed: read %s: %w", name, err)
	}
	if err := decodeDocument(data, into); err != nil {
		return fmt.Errorf("seed: %s: %w", name, err)
	}
	return nil
}

// decodeDocument decodes one JSON document, behind the cloud-config line or
// not. Unknown keys are cloud-init's business.
func decodeDocument(data []byte, into any) error {
	if len(data) > MaxDocument {
		return fmt.Errorf("longer than %d bytes", MaxDocument)
	}
	data = bytes.TrimPrefix(data, []byte(header))
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode: something follows the document")
	}
	return nil
}

// Names as useradd and the kernel take them.
var (
	userName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,255}$`)
)

// ValidEnvName reports whether a name can be an environment variable's.
func ValidEnvName(name string) bool { return envName.MatchString(name) }

// check refuses what would damage the files it goes into: these are line-based.
func (s Seed) check() error {
	if s.Meta.InstanceID == "" {
		return errors.New("seed: there is no instance id")
	}
	if host := s.Hostname(); !hostName.MatchString(host) {
		return fmt.Errorf("seed: bad host name %q", host)
	}
	for _, user := range s.User.Users {
		if !userName.MatchString(user.Name) || user.UID < 0 || user.UID > 60000 || badField(user.Shell) || badField(user.Sudo) {
			return fmt.Errorf("seed: bad user %q", user.Name)
		}
	}
	for name, value := range s.User.SmolVM.Env {
		if !envName.MatchString(name) || bytes.IndexByte([]byte(value), 0) >= 0 {
			return fmt.Errorf("seed: bad environment name %q", name)
		}
	}
	for _, file := range s.User.WriteFiles {
		if !filepath.IsAbs(file.Path) || filepath.Clean(file.Path) == "/" {
			return fmt.Errorf("seed: bad file name %q", file.Path)
		}
	}
	return nil
}

func badField(value string) bool {
	return bytes.ContainsAny([]byte(value), ":\n\x00") && value != "ALL=(ALL) NOPASSWD:ALL"
}

// Hostname is the name the sandbox goes by.
func (s Seed) Hostname() string {
	switch {
	case s.User.Hostname != "":
		return s.User.Hostname
	case s.Meta.LocalHostname != "":
		return s.Meta.LocalHostname
	}
	return "smolvm"
}

// AuthorizedKeys are all keys that may log in, in authorized_keys form: the
// same for every user.
func (s Seed) AuthorizedKeys() []string {
	keys := append([]string(nil), s.User.AuthorizedKeys...)
	for _, user := range s.User.Users {
		keys = append(keys, user.AuthorizedKeys...)
	}
	return keys
}
