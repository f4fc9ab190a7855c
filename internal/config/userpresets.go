package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

// PresetFolder is the folder of a user's own presets, below the state folder.
const PresetFolder = "presets"

// UserPresets adds a user's own presets to the shipped ones: the .toml files of a
// folder, which need not exist, in the order of their names. A file that cannot be
// used does not keep the others from being used; what is wrong with it is in wrong.
func UserPresets(shipped []preset.Preset, folder string) (all []preset.Preset, wrong []error) {
	all = slices.Clone(shipped)
	names, err := filepath.Glob(filepath.Join(escape(folder), "*.toml"))
	if err != nil {
		return all, []error{fmt.Errorf("list the presets in %s: %w", folder, err)}
	}
	slices.Sort(names)
	for _, name := range names {
		with, err := AddPreset(all, name)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		all = with
	}
	return all, wrong
}

// AddPreset adds the preset of one file. It may use no word that names another.
func AddPreset(all []preset.Preset, path string) ([]preset.Preset, error) {
	p, err := ReadPreset(path)
	if err != nil {
		return all, err
	}
	if err := checkNew(all, p, path); err != nil {
		return all, err
	}
	return append(slices.Clip(all), p), nil
}

// ReadPreset reads and checks the preset of one file of the user's.
func ReadPreset(path string) (preset.Preset, error) {
	data, err := readPreset(path)
	if err != nil {
		return preset.Preset{}, fault.New(fault.Usage, "Name a preset's .toml file.", "read preset file %s: %w", path, err)
	}
	p, err := DecodePreset(data, path)
	if err != nil {
		return p, err
	}
	if len(p.Recipe.Locks) > 0 {
		return p, fault.New(fault.Usage, "Pin versions in the steps.",
			"check preset file %s: only shipped presets have lock files beside them", path)
	}
	p.Origin, p.Unpublished = path, true
	return p, nil
}

// readPreset reads a regular file of bounded size. What else lies under the name,
// such as a pipe, is refused and not waited for.
func readPreset(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, reason(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(errors.New("it is not a file"), err)
	}
	return io.ReadAll(io.LimitReader(file, maxPreset+1))
}

// reason is what a system call said, without the path.
func reason(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// escape makes a path that filepath.Glob takes as it is.
func escape(path string) string {
	var out []rune
	for _, r := range path {
		if slices.Contains([]rune(`*?[\`), r) {
			out = append(out, '\\')
		}
		out = append(out, r)
	}
	return string(out)
}
