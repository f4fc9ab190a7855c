package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/spdx"
)

// bill collects the packages; a module that many programs have is there once.
type bill struct {
	version  string
	packages map[string]spdx.Package
	links    []spdx.Relationship
}

func sbom(args []string, out io.Writer) error {
	if err := want(args, 3); err != nil {
		return err
	}
	at, err := moment(args[1])
	if err != nil {
		return err
	}
	b := bill{version: args[0], packages: map[string]spdx.Package{}}
	programs, guests := args[2:], []string(nil)
	if end := slices.Index(programs, "--"); end >= 0 {
		programs, guests = programs[:end], programs[end+1:]
	}
	if err := b.fill(programs, guests); err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	return encoder.Encode(b.document(at))
}

// fill adds the programs; each carries all guests.
func (b *bill) fill(programs, guests []string) error {
	var inside []string
	for _, path := range guests {
		id, err := b.addProgram(path)
		if err != nil {
			return err
		}
		inside = append(inside, id)
	}
	for _, path := range programs {
		id, err := b.addProgram(path)
		if err != nil {
			return err
		}
		b.link(spdx.DocumentID, "DESCRIBES", id)
		for _, guest := range inside {
			b.link(id, "CONTAINS", guest)
		}
	}
	return nil
}

func (b *bill) link(from, kind, to string) {
	b.links = append(b.links, spdx.Relationship{From: from, Type: kind, To: to})
}

func (b *bill) addProgram(path string) (id string, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a program: %w", err)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read what %s was built from: %w", path, err)
	}
	sum := sha256.Sum256(raw)
	name := setting(info, "GOOS") + "/" + setting(info, "GOARCH") + "/" + strings.TrimSuffix(filepath.Base(path), "-"+setting(info, "GOARCH"))
	p := b.add("Program", name, b.version, "APPLICATION")
	p.Name, p.FileName, p.Source = filepath.Base(name), name, "built by "+info.GoVersion+" from "+info.Path
	p.Checksums = spdx.Digest(hex.EncodeToString(sum[:]))
	b.packages[p.ID] = p
	for _, module := range append(info.Deps, standardLibrary(info)) {
		b.link(p.ID, "STATIC_LINK", b.addModule(module))
	}
	return p.ID, nil
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return "unknown"
}

// standardLibrary is known to databases of vulnerabilities as a module, too.
func standardLibrary(info *debug.BuildInfo) *debug.Module {
	return &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}
}

func (b *bill) addModule(module *debug.Module) (id string) {
	if module.Replace != nil {
		module = module.Replace
	}
	p := b.add("Module", module.Path+"@"+module.Version, module.Version, "LIBRARY")
	p.Name = module.Path
	p.References = spdx.PackageURL("pkg:golang/" + strings.ToLower(module.Path) + "@" + module.Version)
	if module.Sum != "" {
		p.Source = "go.sum " + module.Sum
	}
	b.packages[p.ID] = p
	return p.ID
}

// outsideIDs is what an SPDX identifier may not have.
var outsideIDs = regexp.MustCompile(`[^A-Za-z0-9.]+`)

func (b *bill) add(kind, name, version, purpose string) spdx.Package {
	return spdx.Package{
		ID: "SPDXRef-" + kind + "-" + outsideIDs.ReplaceAllString(name, "-"), Version: version, Purpose: purpose,
		Location: spdx.Unknown, Concluded: spdx.Unknown, Declared: spdx.Unknown, Copyright: spdx.Unknown,
	}
}

// document is sorted, and its name space follows from what it says.
func (b *bill) document(at time.Time) spdx.Document {
	d := spdx.Document{
		Version: spdx.Version, License: spdx.DataLicense, ID: spdx.DocumentID, Name: "smolvm-" + b.version,
		Creation: spdx.Creation{Created: at.Format(time.RFC3339), Creators: []string{"Tool: smolvm-dist-" + b.version}},
	}
	for _, p := range b.packages {
		d.Packages = append(d.Packages, p)
	}
	slices.SortFunc(d.Packages, func(x, y spdx.Package) int { return cmp.Compare(x.ID, y.ID) })
	d.Relationships = slices.Clone(b.links)
	slices.SortFunc(d.Relationships, func(x, y spdx.Relationship) int {
		return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.Type, y.Type), cmp.Compare(x.To, y.To))
	})
	d.Relationships = slices.Compact(d.Relationships)
	d.Namespace = fmt.Sprintf("https://github.com/smolvm/smolvm/spdx/%s/%x", b.version, sha256.Sum256(fmt.Append(nil, d.Packages, at)))
	return d
}
