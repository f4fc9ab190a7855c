// Package images holds the recipes: the base layer and one TOML file per preset.
// They are data; internal/config decodes presets and internal/imagebuild builds
// from them. Nothing here runs.
package images

import (
	"embed"
	"io/fs"
)

// BaseFile is the base layer's recipe; every other .toml file is a preset.
const BaseFile = "base.toml"

//go:embed *.toml
var files embed.FS

// Files are the recipes by file name.
func Files() fs.FS { return files }
