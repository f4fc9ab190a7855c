package sandbox

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/supervise"
)

// Environment gives the variables that the sandbox's agent gets at every start, as
// -e takes them.
func (m *Manager) Environment(name string) ([]string, error) { return m.Book.Environment(name) }

// SetEnvironment adds and removes such variables: entries are set, or replaced;
// names are removed. Where the sandbox runs, its sessions that begin from now on
// get values and lose names.
func (m *Manager) SetEnvironment(ctx context.Context, name string, entries, names []string, values map[string]string) ([]string, error) {
	all, err := m.Book.ChangeEnvironment(name, func(all []string) []string {
		gone := slices.Clone(names)
		for _, entry := range entries {
			gone = append(gone, EntryName(entry))
		}
		all = slices.DeleteFunc(all, func(entry string) bool { return slices.Contains(gone, EntryName(entry)) })
		all = append(all, entries...)
		slices.Sort(all)
		return all
	})
	if err != nil {
		return nil, err
	}
	c, err := m.Connect(ctx, name)
	if fault.CodeOf(err) == fault.NotRunning {
		return all, nil
	}
	if err == nil {
		defer c.Close()
		err = c.Variables(ctx, supervise.Variables{Set: values, Unset: names})
	}
	if err != nil {
		err = fmt.Errorf("sandbox %q has it from its next start on, but not yet: %w", name, err)
	}
	return all, err
}

// EntryName is the name in NAME=VALUE or NAME.
func EntryName(entry string) string {
	name, _, _ := strings.Cut(entry, "=")
	return name
}
