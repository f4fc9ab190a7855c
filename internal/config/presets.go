package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

const (
	maxPreset = 1 << 20 // bytes of a preset's file
	baseFile  = "base.toml"
)

// order is the product's order of its own presets; others follow by name.
var order = []string{"openclaw", "claude-code", "codex", "hermes", "pi", "opencode"}

// DecodePreset reads a preset from a TOML file's contents and checks it. Unknown
// fields are refused, and told together with wrong values. The file's name is only
// for messages.
func DecodePreset(data []byte, name string) (preset.Preset, error) {
	var p preset.Preset
	var unknown unknownFields
	if err := DecodeRecipe(data, "preset file "+name, &p); err != nil && !errors.As(err, &unknown) {
		return preset.Preset{}, err
	}
	if err := errors.Join(unknown.orNil(), p.Validate()); err != nil {
		return preset.Preset{}, fault.New(fault.Usage, "Correct the file.", "check preset file %s: %w", name, err)
	}
	return p, nil
}

// DecodeRecipe reads a TOML document into a struct. Unknown fields are refused; the
// caller checks the values. What it is (such as "preset file x.toml") is only for
// messages.
func DecodeRecipe(data []byte, what string, into any) error {
	if len(data) > maxPreset {
		return fault.New(fault.Usage, "", "%s has more than %d bytes", what, maxPreset)
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(into); err != nil {
		return fault.New(fault.Usage, "Correct the file.", "read %s: %w", what, explain(err))
	}
	return nil
}

// unknownFields are the fields of a document that its struct does not have.
type unknownFields []toml.DecodeError

func (u unknownFields) Error() string {
	var lines []string
	for _, field := range u {
		row, _ := field.Position()
		lines = append(lines, fmt.Sprintf("line %d: unknown field %q", row, strings.Join(field.Key(), ".")))
	}
	return strings.Join(lines, "\n")
}

// orNil is no error where there is no such field.
func (u unknownFields) orNil() error {
	if len(u) == 0 {
		return nil
	}
	return u
}

// explain adds the place to errors of the decoder, and the unknown fields' names.
func explain(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		return unknownFields(unknown.Errors)
	}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		row, column := at.Position()
		return fmt.Errorf("line %d, column %d: %w", row, column, err)
	}
	return err
}

// Presets decodes all presets of a folder, that is every .toml file but the base
// layer's, in the product's order. Two that share a word are refused.
func Presets(files fs.FS) ([]preset.Preset, error) {
	names, err := fs.Glob(files, "*.toml")
	if err != nil {
		return nil, fmt.Errorf("list the presets: %w", err)
	}
	var all []preset.Preset
	for _, name := range names {
		if name == baseFile {
			continue
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read preset file %s: %w", name, err)
		}
		p, err := DecodePreset(data, name)
		if err != nil {
			return nil, err
		}
		if err := checkNew(all, p, name); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, inOrder)
	return all, nil
}

// checkNew refuses a preset that shares a word with an earlier one.
func checkNew(all []preset.Preset, p preset.Preset, file string) error {
	for _, word := range p.Words() {
		if other, taken := preset.Find(all, word); taken {
			return fault.New(fault.Usage, "Give it another name or alias.",
				"check preset file %s: %q already names preset %s", file, word, other.Name)
		}
	}
	return nil
}

// inOrder compares by place in the product's order, then by name.
func inOrder(a, b preset.Preset) int {
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	return strings.Compare(a.Name, b.Name)
}

func rank(p preset.Preset) int {
	if i := slices.Index(order, p.Name); i >= 0 {
		return i
	}
	return len(order)
}
