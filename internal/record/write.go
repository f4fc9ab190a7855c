package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/smolvm/smolvm/internal/fault"
)

// Write replaces the sandbox's record. The record that is there is kept when
// the new one is refused, cannot be written whole, or would replace one of
// another version.
func (b *Book) Write(r Record) error {
	r.Version = Version
	data, err := encode(r.stored(b.home))
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", b.what(clip(r.Name)), err)
	}
	open, err := b.gateAt(r.Name)
	if err != nil {
		return err
	}
	defer open()
	if err := b.refuseOther(r.Name); err != nil {
		return err
	}
	if err := b.replace(b.Folder(r.Name), data); err != nil {
		return storage(err, "write the record of "+b.what(r.Name))
	}
	return nil
}

// refuseOther refuses to replace a record of another version.
func (b *Book) refuseOther(name string) error {
	data, err := readRegular(b.Folder(name).Record())
	if err != nil {
		return nil // missing or planted: the rename replaces it
	}
	if err := checkVersion(data); fault.CodeOf(err) == fault.Conflict {
		return fmt.Errorf("write the record of %s: %w", b.what(name), err)
	}
	return nil
}

// replace writes a temporary file, syncs it, renames it over the record and
// syncs the folder. What an interrupted replace left is removed first: the gate
// is closed, so nobody else is writing.
func (b *Book) replace(folder Folder, data []byte) error {
	if err := removeTemps(folder); err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(folder.Record(), renameio.WithTempDir(folder.Dir()), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := b.step("temp"); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := b.step("written"); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	if err := b.step("renamed"); err != nil {
		return err
	}
	return syncDir(folder.Dir())
}

func (b *Book) step(name string) error {
	if b.reached == nil {
		return nil
	}
	return b.reached(name)
}

// removeTemps removes the temporary files of interrupted writes.
func removeTemps(folder Folder) error {
	entries, err := os.ReadDir(folder.Dir())
	if err != nil {
		return err
	}
	prefix := "." + filepath.Base(folder.Record())
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			if err := os.RemoveAll(folder.at(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// syncDir makes the names in a folder survive a power loss.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
