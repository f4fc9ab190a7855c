package imagebuild

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// built is the demo image with its bill of materials, read as JSON.
func built(t *testing.T) (Image, map[string]any) {
	t.Helper()
	b, _ := newBuilder(t, t.TempDir())
	images, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	var bill map[string]any
	if err := json.Unmarshal(images[0].SBOM, &bill); err != nil {
		t.Fatal(err)
	}
	return images[0], bill
}

// spdxProblems holds a document to the specification: the fields it must have
// (https://spdx.github.io/spdx-spec/v2.3/, clauses 6, 7, 10 and 11), their forms,
// and that every reference leads somewhere.
func spdxProblems(d map[string]any) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	text := func(in map[string]any, field, form string) string {
		s, _ := in[field].(string)
		if !regexp.MustCompile(form).MatchString(s) {
			bad("%v: %s is %q", in["SPDXID"], field, s)
		}
		return s
	}
	const id = `^SPDXRef-[A-Za-z0-9.-]+$`
	text(d, "spdxVersion", `^SPDX-2\.3$`)
	text(d, "dataLicense", `^CC0-1\.0$`)
	text(d, "name", `.`)
	ids := map[string]bool{text(d, "SPDXID", `^SPDXRef-DOCUMENT$`): true}
	if u, err := url.Parse(text(d, "documentNamespace", `^[^#]+$`)); err != nil || !u.IsAbs() {
		bad("documentNamespace is no URI")
	}
	creation, _ := d["creationInfo"].(map[string]any)
	text(creation, "created", `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	if creators, _ := creation["creators"].([]any); len(creators) == 0 || !regexp.MustCompile(`^(Person|Organization|Tool): .+`).MatchString(fmt.Sprint(creators[0])) {
		bad("creators are %v", creators)
	}
	refs := map[string]bool{}
	list, _ := d["hasExtractedLicensingInfos"].([]any)
	for _, l := range list {
		info := l.(map[string]any)
		refs[text(info, "licenseId", `^LicenseRef-[A-Za-z0-9.-]+$`)] = true
		text(info, "extractedText", `.`)
	}
	packages, _ := d["packages"].([]any)
	for _, p := range packages {
		p := p.(map[string]any)
		if name := text(p, "SPDXID", id); ids[name] {
			bad("two elements are %s", name)
		} else {
			ids[name] = true
		}
		text(p, "name", `.`)
		text(p, "downloadLocation", `^(NONE|NOASSERTION|https?://.+)$`)
		if analyzed, ok := p["filesAnalyzed"].(bool); !ok || analyzed {
			bad("%v: files are said to be listed", p["SPDXID"])
		}
		for _, field := range []string{"licenseDeclared", "licenseConcluded"} {
			declared := text(p, field, `.`)
			known := regexp.MustCompile(`LicenseRef-[A-Za-z0-9.-]+`).ReplaceAllStringFunc(declared, func(ref string) string {
				if !refs[ref] {
					bad("%v: %s is nowhere explained", p["SPDXID"], ref)
				}
				return "MIT"
			})
			if _, ok := spdxExpression(known); !ok && declared != "NOASSERTION" {
				bad("%v: %s is %q", p["SPDXID"], field, declared)
			}
		}
		sums, _ := p["checksums"].([]any)
		for _, s := range sums {
			text(s.(map[string]any), "algorithm", `^SHA256$`)
			text(s.(map[string]any), "checksumValue", `^[0-9a-f]{64}$`)
		}
		external, _ := p["externalRefs"].([]any)
		for _, r := range external {
			text(r.(map[string]any), "referenceCategory", `^PACKAGE-MANAGER$`)
			text(r.(map[string]any), "referenceType", `^purl$`)
			text(r.(map[string]any), "referenceLocator", `^pkg:[a-z]+/[^@ ]+@[^@ ]+$`)
		}
	}
	relations, _ := d["relationships"].([]any)
	described := map[any]bool{}
	for _, r := range relations {
		r := r.(map[string]any)
		text(r, "relationshipType", `^(DESCRIBES|CONTAINS|GENERATED_FROM)$`)
		for _, end := range []string{"spdxElementId", "relatedSpdxElement"} {
			if !ids[text(r, end, id)] {
				bad("a relationship names %v", r[end])
			}
		}
		described[r["relatedSpdxElement"]] = true
	}
	for name := range ids {
		if name != "SPDXRef-DOCUMENT" && !described[name] {
			bad("nothing has %s", name)
		}
	}
	if len(packages) == 0 {
		bad("no packages")
	}
	return problems
}

func TestBillIsSPDX(t *testing.T) {
	_, bill := built(t)
	if problems := spdxProblems(bill); len(problems) > 0 {
		t.Error(strings.Join(problems, "\n"))
	}
	delete(bill, "creationInfo")
	bill["packages"].([]any)[1].(map[string]any)["SPDXID"] = "SPDXRef-Image"
	if len(spdxProblems(bill)) < 3 {
		t.Error("the check notices nothing")
	}
}

// licensesIn gives what the bill says of each package: its kind, version, licence,
// and whether a digest is known.
func licensesIn(bill map[string]any) map[string]string {
	found := map[string]string{}
	for _, p := range bill["packages"].([]any) {
		p := p.(map[string]any)
		text := fmt.Sprint(p["licenseDeclared"])
		if comment, ok := p["licenseComments"]; ok {
			text += fmt.Sprintf(" (%v)", comment)
		}
		if p["checksums"] != nil {
			text += " sha256"
		}
		if refs, ok := p["externalRefs"].([]any); ok {
			text += " " + fmt.Sprint(refs[0].(map[string]any)["referenceLocator"])
		}
		found[fmt.Sprint(p["name"])] = text
	}
	return found
}

func TestBillNamesWhatIsInstalled(t *testing.T) {
	_, bill := built(t)
	want := map[string]string{
		"smolvm-demo-amd64": "NOASSERTION", "base": "NOASSERTION sha256",
		"kernel": "GPL-2.0-only WITH Linux-syscall-note sha256", "modules": "GPL-2.0-only WITH Linux-syscall-note sha256",
		"linux-image-6.12.1-demo": "GPL-2.0-only WITH Linux-syscall-note sha256",
		"libdemo1":                "(GPL-2.0-or-later OR Artistic-1.0-Perl) AND LicenseRef-Debian-odd-or-later AND MIT pkg:deb/demian/libdemo1@1%3A2.0-3%2Bb1?arch=amd64",
		"libdemo-dev":             "(GPL-2.0-or-later OR Artistic-1.0-Perl) AND LicenseRef-Debian-odd-or-later AND MIT pkg:deb/demian/libdemo-dev@1?arch=all",
		"git":                     "NOASSERTION (The package says: the copyright file refers to GPL-2) pkg:deb/demian/git@2.47?arch=amd64",
		"node":                    "MIT sha256 pkg:pypi/node@24.1.0",
		"demo":                    "NOASSERTION (The package says: SEE LICENSE IN README.md) pkg:npm/demo@1.2.3",
		"@demo/lib":               "(MIT OR Apache-2.0) pkg:npm/%40demo/lib@0.1.0",
		"demo-py":                 "BSD-3-Clause pkg:pypi/demo-py@2.0",
		"npm":                     "Artistic-2.0 pkg:npm/npm@12.0.0", // the upper layer's
	}
	if diff := cmp.Diff(want, licensesIn(bill)); diff != "" {
		t.Error(diff)
	}
	if created := bill["creationInfo"].(map[string]any)["created"]; created != "1970-01-01T00:00:01Z" {
		t.Errorf("created %v: not the recipe's epoch", created)
	}
}

// TestBillIsTheSameAgain reads the layers another day, one of which is there only
// as an archive.
func TestBillIsTheSameAgain(t *testing.T) {
	dir := t.TempDir()
	b, _ := newBuilder(t, dir)
	first, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, kindInventory)); err != nil {
		t.Fatal(err)
	}
	b.now = func() time.Time { return time.Unix(1_900_000_000, 0) }
	again, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first[0].SBOM), string(again[0].SBOM)); diff != "" {
		t.Error(diff)
	}
	if found, err := os.ReadDir(filepath.Join(dir, kindInventory)); err != nil || len(found) != 2 {
		t.Errorf("the cache keeps %d inventories: %v", len(found), err)
	}
}

func TestSizesOfAnImage(t *testing.T) {
	image, _ := built(t)
	var names []string
	for _, s := range image.Sizes {
		names = append(names, s.Name)
		if s.Compressed <= 0 || s.Expanded <= 0 || s.Allocated <= 0 || s.Allocated > s.Expanded || s.Free < 0 {
			t.Errorf("%+v", s)
		}
	}
	if !slices.Equal(names, []string{"kernel", "modules", "base", "demo"}) {
		t.Errorf("%v", names)
	}
}

// TestLayersOnLayers: whiteouts, opaque directories, replaced files and databases.
func TestLayersOnLayers(t *testing.T) {
	at := func(name, path string) software { return software{Kind: kindNPM, Name: name, Version: "1", Path: path} }
	deb := func(name, version string) software { return software{Kind: kindDeb, Name: name, Version: version} }
	base := inventory{
		Status: true, Debs: []software{deb("a", "1"), deb("b", "1"), deb("c", "1")},
		Found: []software{at("kept", "x/kept/p"), at("gone", "x/gone/p"), at("emptied", "y/z/p"), at("old", "x/same/p")},
	}
	upper := inventory{
		Status: true, Debs: []software{deb("a", "1"), deb("b", "2")},
		Found: []software{at("new", "x/same/p")}, Hidden: []string{"x/gone"}, Emptied: []string{"y"},
	}
	var got []string
	for _, s := range merged([]inventory{base, upper}) {
		got = append(got, fmt.Sprintf("%s%s %d", s.Name, s.Version, s.layer))
	}
	if want := []string{"a1 0", "b2 1", "kept1 0", "new1 1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLicensesAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]string{
		"MIT": "MIT", "mit": "MIT", "(MIT OR Apache-2.0)": "(MIT OR Apache-2.0)", "MIT and (isc or BSD-2-Clause)": "MIT AND (ISC OR BSD-2-Clause)",
		"GPL-2.0": "GPL-2.0-only", "Apache-2.0 WITH LLVM-exception": "Apache-2.0 WITH LLVM-exception",
		"": "", "Apache 2.0": "", "SEE LICENSE IN LICENSE.md": "", "UNLICENSED": "", "MIT OR": "", "(MIT": "", "MIT)": "", "OR": "",
		"MIT WITH nothing": "", strings.Repeat("(", 40) + "MIT" + strings.Repeat(")", 40): "",
	} {
		if got := state(text).Expression; got != want {
			t.Errorf("%.60q is read as %q, want %q", text, got, want)
		}
	}
	for raw, want := range map[string]stated{
		`{"name":"a","version":"1","license":{"type":"ISC"}}`:                                  {Expression: "ISC"},
		`{"name":"a","version":"1","licenses":[{"type":"MIT"},{"type":"BSD-3-Clause"}]}`:       {Expression: "MIT OR BSD-3-Clause"},
		`{"name":"a","version":"1","license":"Custom\u0007 ` + strings.Repeat("x", 300) + `"}`: {Text: "Custom\a"},
		`{"name":"a","version":"1"}`:                                                           {},
	} {
		got, ok := readNPM([]byte(raw))
		if got.License.Text != "" {
			got.License.Text = got.License.Text[:7]
			want.Text = "Custom "
		}
		if !ok || got.License != want {
			t.Errorf("%.60s: %+v, want %+v", raw, got.License, want)
		}
	}
	for raw, want := range map[string]stated{
		"Name: a\nVersion: 1\nLicense: MIT\n":                                                     {Expression: "MIT"},
		"Name: a\nVersion: 1\nClassifier: License :: OSI Approved :: Apache Software License\n\n": {Expression: "Apache-2.0"},
		"Name: a\r\nVersion: 1\r\nClassifier: License :: OSI Approved :: BSD License\r\n":         {Text: "BSD License"},
		"Name: a\nVersion: 1\nLicense: " + strings.Repeat("the whole text ", 100) + "\n":          {},
	} {
		if got, ok := readPython([]byte(raw)); !ok || got.License != want {
			t.Errorf("%.60q: %+v, want %+v", raw, got.License, want)
		}
	}
}
