package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/renameio/v2"

	"github.com/smolvm/smolvm/internal/fault"
)

// Environment is the path of the variables that a sandbox's agent gets at every
// start. They are no part of the record, which is shown and put into reports.
func (f Folder) Environment() string { return f.at("environment.json") }

// Environment gives those variables as -e takes them: NAME=VALUE, or NAME for the
// value that it has on this computer then.
func (b *Book) Environment(name string) ([]string, error) {
	if err := b.mustExist(name); err != nil {
		return nil, err
	}
	return b.environment(name)
}

func (b *Book) environment(name string) ([]string, error) {
	data, err := readRegular(b.Folder(name).Environment())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var entries []string
	if err == nil {
		err = json.Unmarshal(data, &entries)
	}
	if err != nil {
		return nil, fault.New(fault.Storage, "Remove the file, and set the variables again.",
			"read the variables of sandbox %q in %s: %w", name, b.Folder(name).Environment(), err)
	}
	return entries, nil
}

// ChangeEnvironment replaces the variables by what f makes of them. Nobody else
// changes them meanwhile. The file is its owner's alone.
func (b *Book) ChangeEnvironment(name string, f func([]string) []string) ([]string, error) {
	open, err := b.gateAt(name)
	if err != nil {
		return nil, err
	}
	defer open()
	entries, err := b.environment(name)
	if err != nil {
		return nil, err
	}
	entries = f(entries)
	data, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("keep the variables of sandbox %q: %w", name, err)
	}
	if err := renameio.WriteFile(b.Folder(name).Environment(), append(data, '\n'), 0o600, renameio.IgnoreUmask()); err != nil {
		return nil, storage(err, fmt.Sprintf("keep the variables of sandbox %q", name))
	}
	return entries, nil
}
