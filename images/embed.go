// Package images holds the recipes: the base layer and one TOML file per preset,
// beside it a folder with the lock file of what the preset installs. A lock is made
// anew by "npm install --package-lock-only --ignore-scripts
// --omit-lockfile-registry-resolved" or "uv pip compile --universal
// --python-version 3.13 --only-binary :all: --generate-hashes --no-header
// --no-annotate", and its digest goes into the TOML file; base/ has the locks of the
// base's packages, one for each architecture. scripts/refresh-pins makes all of them.
// They are data; internal/config decodes presets and internal/imagebuild builds
// from them. Nothing here runs.
package images

import (
	"embed"
	"io/fs"
)

// BaseFile is the base layer's recipe; every other .toml file is a preset.
const BaseFile = "base.toml"

//go:embed *.toml */package-lock.json hermes/requirements.txt base/*
var files embed.FS

// BaseLock is the lock file of the base's packages for an architecture.
func BaseLock(arch string) string { return "base/packages-" + arch + ".lock" }

// Files are the recipes by file name.
func Files() fs.FS { return files }
