package imagebuild

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/smolvm/smolvm/internal/fsimg/ext4"
)

// Kinds of software, as package URLs name them.
const (
	kindDeb  = "deb"
	kindNPM  = "npm"
	kindPyPI = "pypi"
)

// distroPython is where Debian's own packages put theirs, which dpkg knows.
const distroPython = "usr/lib/python3/dist-packages/"

// npmPackage matches the description of an installed npm package, and not those of
// folders in one.
var npmPackage = regexp.MustCompile(`(^|/)node_modules/(@[^/]+/)?[^/@][^/]*/package\.json$`)

// metadataReader is how to read a file that describes a package; nil for others.
func metadataReader(e ext4.Entry) func([]byte) (software, bool) {
	if !e.Mode.IsRegular() {
		return nil
	}
	dir := path.Base(path.Dir(e.Name))
	switch path.Base(e.Name) {
	case "package.json":
		if npmPackage.MatchString(e.Name) {
			return readNPM
		}
	case "METADATA":
		if strings.HasSuffix(dir, ".dist-info") && !strings.HasPrefix(e.Name, distroPython) {
			return readPython
		}
	case "PKG-INFO":
		if strings.HasSuffix(dir, ".egg-info") && !strings.HasPrefix(e.Name, distroPython) {
			return readPython
		}
	}
	return nil
}

// readNPM reads a package.json.
func readNPM(raw []byte) (software, bool) {
	var p struct {
		Name     string          `json:"name"`
		Version  string          `json:"version"`
		License  json.RawMessage `json:"license"`
		Licenses json.RawMessage `json:"licenses"`
	}
	if err := json.Unmarshal(raw, &p); err != nil || p.Name == "" || p.Version == "" {
		return software{}, false
	}
	return software{Kind: kindNPM, Name: p.Name, Version: p.Version, License: npmLicense(p.License, p.Licenses)}, true
}

// npmLicense reads the forms that a licence has had in npm: an expression, an
// object with a type, and a list of such objects, of which one may choose.
func npmLicense(one, many json.RawMessage) stated {
	var text string
	type typed struct {
		Type string `json:"type"`
	}
	var object typed
	var list []typed
	switch {
	case json.Unmarshal(one, &text) == nil && text != "":
	case json.Unmarshal(one, &object) == nil && object.Type != "":
		text = object.Type
	case json.Unmarshal(many, &list) == nil && len(list) > 0:
		var types []string
		for _, l := range list {
			types = append(types, l.Type)
		}
		text = strings.Join(types, " OR ")
	}
	return state(text)
}

// readPython reads the METADATA of an installed Python distribution.
func readPython(raw []byte) (software, bool) {
	fields := map[string][]string{}
	head, _, _ := bytes.Cut(bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
	for line := range strings.Lines(string(head)) {
		if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
			key = strings.ToLower(key)
			fields[key] = append(fields[key], strings.TrimSpace(value))
		}
	}
	first := func(key string) string { return strings.Join(fields[key][:min(1, len(fields[key]))], "") }
	p := software{Kind: kindPyPI, Name: pythonName(first("name")), Version: first("version")}
	p.License = state(first("license-expression"))
	if p.License == (stated{}) {
		p.License = pythonLicense(first("license"), fields["classifier"])
	}
	return p, p.Name != "" && p.Version != ""
}

// pythonName is the one spelling of a distribution's name (PEP 503).
func pythonName(name string) string {
	return strings.ToLower(strings.Trim(regexp.MustCompile(`[-_.]+`).ReplaceAllString(name, "-"), "-"))
}

// pythonLicense reads the two older ways of naming a licence.
func pythonLicense(field string, classifiers []string) stated {
	if field = strings.TrimSpace(field); len(field) > maxStated {
		field = "" // the whole text of one
	}
	if named := state(field); named.Expression != "" {
		return named
	}
	var classes []string
	for _, c := range classifiers {
		if class, ok := strings.CutPrefix(c, "License :: "); ok {
			class = class[strings.LastIndex(class, ": ")+1:]
			classes = append(classes, strings.TrimSpace(class))
		}
	}
	if len(classes) == 1 && pythonClasses[classes[0]] != "" {
		return stated{Expression: pythonClasses[classes[0]]}
	}
	return stated{Text: shortened(cmp.Or(strings.Join(classes, ", "), field))}
}

// installedDebs reads dpkg's status file.
func installedDebs(raw []byte) []software {
	var debs []software
	for paragraph := range strings.SplitSeq(string(raw), "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(paragraph) {
			if key, value, ok := strings.Cut(line, ":"); ok && line[0] != ' ' {
				fields[key] = strings.TrimSpace(value)
			}
		}
		if fields["Package"] != "" && strings.HasSuffix(fields["Status"], " installed") {
			source, _, _ := strings.Cut(fields["Source"], " ") // the rest is another version
			debs = append(debs, software{
				Kind: kindDeb, Name: fields["Package"], Version: fields["Version"], Arch: fields["Architecture"], Source: source,
			})
		}
	}
	return debs
}

// osRelease is the distribution's id.
func osRelease(raw []byte) string {
	for line := range strings.Lines(string(raw)) {
		if id, ok := strings.CutPrefix(line, "ID="); ok && word(strings.Trim(strings.TrimSpace(id), `"`)) {
			return strings.Trim(strings.TrimSpace(id), `"`)
		}
	}
	return ""
}

func compareSoftware(a, b software) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Path, b.Path))
}

// purl is the package URL: https://github.com/package-url/purl-spec.
func (s software) purl(system string) string {
	var names []string
	for part := range strings.SplitSeq(s.Name, "/") {
		names = append(names, purlEscape(part))
	}
	text := "pkg:" + s.Kind + "/"
	if s.Kind == kindDeb {
		text += cmp.Or(system, "debian") + "/"
	}
	text += strings.Join(names, "/") + "@" + purlEscape(s.Version)
	if s.Arch != "" {
		text += "?arch=" + purlEscape(s.Arch)
	}
	return text
}

func purlEscape(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
}
