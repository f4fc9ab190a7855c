package record

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// SSHConfig is the path of the file for OpenSSH that names the sandboxes of a home.
func SSHConfig(home string) string { return filepath.Join(home, "ssh_config") }

// KeepSSHConfig makes that file what render makes of the sandboxes' names. A file
// that says so already is left alone, and none is made for a home without
// sandboxes. Names are read behind the gate: of two processes that write, the one
// that knows the newer names writes last.
func (b *Book) KeepSSHConfig(render func(names []string) string) error {
	if right, err := b.sshConfigIs(render); err != nil || right {
		return err
	}
	open, err := b.gate()
	if err != nil {
		return err
	}
	defer open()
	names, err := b.Names()
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(SSHConfig(b.home), []byte(render(names)), 0o600, renameio.IgnoreUmask()); err != nil {
		return storage(err, "write the sandboxes' file for ssh")
	}
	return nil
}

func (b *Book) sshConfigIs(render func([]string) string) (bool, error) {
	names, err := b.Names()
	if err != nil {
		return false, err
	}
	data, err := readRegular(SSHConfig(b.home))
	if errors.Is(err, fs.ErrNotExist) {
		return len(names) == 0, nil
	}
	return err == nil && string(data) == render(names), nil // what cannot be read is replaced
}
