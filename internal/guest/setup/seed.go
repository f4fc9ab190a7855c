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
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/guest/fat"
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
	Session wire.Session
}

// header opens every cloud-config document.
const header = "#cloud-config\n"

// ReadSeed reads and decodes the seed's FAT volume.
func ReadSeed(device string) (Seed, error) {
	file, err := os.Open(device)
	if err != nil {
		return Seed{}, fmt.Errorf("open seed: %w", err)
	}
	defer file.Close()
	image, err := io.ReadAll(io.LimitReader(file, fat.MaxVolume+1))
	if err != nil {
		return Seed{}, fmt.Errorf("read seed: %w", err)
	}
	files, err := fat.Read(image)
	if err != nil {
		return Seed{}, fmt.Errorf("read seed: %w", err)
	}
	return DecodeSeed(files)
}

// DecodeSeed decodes the documents, given by name. The network configuration may be
// missing, and in seeds of earlier versions the session is part of the user data.
func DecodeSeed(files map[string][]byte) (Seed, error) {
	var seed Seed
	for name, into := range map[string]any{
		"user-data": &seed.User, "meta-data": &seed.Meta, "network-config": &seed.Network,
		wire.SessionFile: &seed.Session,
	} {
		data, ok := files[name]
		if !ok && (name == "network-config" || name == wire.SessionFile) {
			continue
		}
		if !ok {
			return Seed{}, fmt.Errorf("seed: there is no %s", name)
		}
		if err := decodeDocument(data, into); err != nil {
			return Seed{}, fmt.Errorf("seed: %s: %w", name, err)
		}
	}
	if former := seed.User.Former; former != nil {
		if files[wire.SessionFile] == nil {
			seed.Session = *former
		}
		seed.User.Former = nil
	}
	return seed, seed.check()
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

const (
	lower   = "abcdefghijklmnopqrstuvwxyz"
	upper   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
	letters = lower + upper
)

// validName reports whether a name begins with one of first, goes on with those
// and any of more, and has at most limit bytes.
func validName(name, first, more string, limit int) bool {
	return name != "" && len(name) <= limit && strings.ContainsRune(first, rune(name[0])) &&
		strings.Trim(name, first+more) == ""
}

// ValidEnvName reports whether a name can be an environment variable's.
func ValidEnvName(name string) bool { return validName(name, letters+"_", digits, 256) }

func validUser(name string) bool { return validName(name, lower+"_", digits+"-", 32) }

func validHost(name string) bool {
	return validName(name, letters+digits, "-", 63) && !strings.HasSuffix(name, "-")
}

// check refuses what would damage the files it goes into: these are line-based.
func (s Seed) check() error {
	if s.Meta.InstanceID == "" {
		return errors.New("seed: there is no instance id")
	}
	if host := s.Hostname(); !validHost(host) {
		return fmt.Errorf("seed: bad host name %q", host)
	}
	for _, user := range s.User.Users {
		if !validUser(user.Name) || user.UID < 1 && user.Name != "root" || user.UID > 60000 || strings.ContainsRune(user.Shell, ':') || badField(user.Shell) || badField(user.Sudo) {
			return fmt.Errorf("seed: bad user %q", user.Name)
		}
	}
	for name, value := range s.Session.Env {
		if !ValidEnvName(name) || strings.ContainsRune(value, 0) {
			return fmt.Errorf("seed: bad environment name %q", name)
		}
	}
	for _, service := range s.Session.Services {
		if !validUser(service.Name) || len(service.Run) == 0 || service.Port < 0 || service.Port > 65535 || badField(service.Health) {
			return fmt.Errorf("seed: bad service %q", service.Name)
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
	return strings.ContainsAny(value, "\n\x00")
}

// Rename makes host the name the sandbox goes by, where there is one.
func (s *Seed) Rename(host string) error {
	if host == "" {
		return nil
	}
	if !validHost(host) {
		return fmt.Errorf("bad host name %q", host)
	}
	s.User.Hostname = host
	return nil
}

// Become makes the seed that of another sandbox, which a restored machine is.
func (s Seed) Become(id wire.Identity) (Seed, error) {
	s.Meta.InstanceID, s.User.Hostname = id.InstanceID, id.Hostname
	s.User.HostKeys.Private = id.HostKey
	s.User.AuthorizedKeys = id.AuthorizedKeys
	s.User.Users = slices.Clone(s.User.Users)
	for i := range s.User.Users {
		s.User.Users[i].AuthorizedKeys = nil
	}
	return s, s.check()
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
