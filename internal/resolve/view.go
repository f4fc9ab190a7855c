package resolve

import "github.com/smolvm/smolvm/internal/store"

// View is how the store shows the plan's image to people.
func (p Plan) View() store.View {
	v := store.View{Release: p.Release, Preset: p.Row.Preset, Arch: p.Row.Arch, VMM: p.Row.VMM}
	extensions := map[Role]string{Modules: ".cpio", Layer: ".ext4"}
	for _, step := range p.Steps {
		v.Files = append(v.Files, store.ViewFile{
			Name: step.Asset.Name + extensions[step.Role],
			Key:  step.Asset.Index.SHA256, Archive: step.Asset.Archive.SHA256,
		})
	}
	return v
}
