package cli

import (
	"path/filepath"
	"slices"

	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/trust"
)

// catalogues are the manifests that were seen last, by the catalogues' addresses
// without passwords. Nothing is asked of the network.
type catalogues map[string]manifest.Manifest

// seenLast reads what is remembered of catalogues. What cannot be read is as good
// as never seen: a list of sandboxes must not fail of it.
func (a *App) seenLast() catalogues {
	c, err := a.Config()
	if err != nil {
		return nil
	}
	documents, err := trust.NewMemory(filepath.Join(c.Home, "trust"), a.Now).Documents()
	if err != nil {
		return nil
	}
	seen := catalogues{}
	for _, document := range documents {
		if m, err := manifest.Parse(document.Raw); err == nil {
			seen[fetch.Shown(document.Address)] = m
		}
	}
	return seen
}

// newer is the row that the sandbox's catalogue has for it now, where that is
// another image than the sandbox's.
func (c catalogues) newer(r record.Record) (manifest.Row, bool) {
	m, there := c[r.Image.Address]
	if !there {
		return manifest.Row{}, false
	}
	for _, row := range m.Rows {
		if row.Preset == r.Preset && row.Arch == r.Arch && row.VMM == r.VMM {
			return row, !slices.Equal(rowKeys(row), keysOf(r.Image))
		}
	}
	return manifest.Row{}, false
}

// rowKeys are the keys of a row's files, in the order of keysOf.
func rowKeys(row manifest.Row) []string {
	var keys []string
	for _, part := range parts(row) {
		keys = append(keys, part.Index.SHA256)
	}
	return keys
}

// newerView is the image that a sandbox could have.
type newerView struct {
	Release string    `json:"release"`
	Agent   agentView `json:"agent"`
}

// onDisk is what a sandbox takes here.
func (a *App) onDisk(name string) int64 {
	folder, err := a.folder(name)
	if err != nil {
		return 0
	}
	return folder.Allocated()
}

func (c catalogues) viewOf(r record.Record) *newerView {
	row, newer := c.newer(r)
	if !newer {
		return nil
	}
	return &newerView{c[r.Image.Address].Release, agentView{row.Agent.Name, row.Agent.Version}}
}
