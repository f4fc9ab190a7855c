package imagebuild

import (
	"regexp"
	"slices"
	"strings"
)

// maxStated bounds what is quoted of a licence, in bytes.
const maxStated = 200

// stated is what a package says of its licence: an SPDX expression of licences
// that the tables below know, or its own words.
type stated struct {
	Expression string `json:"expression,omitempty"`
	Text       string `json:"text,omitempty"`
}

// state reads a licence as packages write it.
func state(text string) stated {
	text = strings.TrimSpace(text)
	if expression, ok := spdxExpression(text); ok {
		return stated{Expression: expression}
	}
	return stated{Text: shortened(text)}
}

// shortened is a quotation: one line, of bounded length, printable.
func shortened(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	text = strings.ToValidUTF8(text, "")
	if len(text) > maxStated {
		text = strings.ToValidUTF8(text[:maxStated], "") + "..."
	}
	return text
}

// spdxExpression checks an expression whose licences are all known, and spells
// them as SPDX does.
func spdxExpression(text string) (string, bool) {
	words := regexp.MustCompile(`[()]|[^()\s]+`).FindAllString(text, -1)
	p := expression{words: words}
	if len(words) == 0 || !p.alternatives(0) || p.at != len(words) {
		return "", false
	}
	return strings.NewReplacer("( ", "(", " )", ")").Replace(strings.Join(p.words, " ")), true
}

// expression is a parser of SPDX licence expressions, which spells their words
// right as it goes.
type expression struct {
	words []string
	at    int
}

// alternatives reads terms joined by AND, OR and WITH.
func (e *expression) alternatives(depth int) bool {
	for {
		if !e.term(depth) {
			return false
		}
		if e.is("WITH") && !e.known(exceptions) {
			return false
		}
		if !e.is("AND") && !e.is("OR") {
			return true
		}
	}
}

func (e *expression) term(depth int) bool {
	if e.is("(") {
		return depth < 16 && e.alternatives(depth+1) && e.is(")")
	}
	return e.known(licenses)
}

// is reads an operator, in whatever case.
func (e *expression) is(operator string) bool {
	if e.at == len(e.words) || !strings.EqualFold(e.words[e.at], operator) {
		return false
	}
	e.words[e.at] = operator
	e.at++
	return true
}

// known reads an identifier of a table, in whatever case.
func (e *expression) known(table []string) bool {
	if e.at == len(e.words) {
		return false
	}
	word := e.words[e.at]
	if current, old := formerLicenses[word]; old {
		word = current
	}
	i := slices.IndexFunc(table, func(id string) bool { return strings.EqualFold(id, word) })
	if i < 0 {
		return false
	}
	e.words[e.at] = table[i]
	e.at++
	return true
}

// debianLicense reads a package's copyright file. In the machine-readable form
// (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/) it names
// the licences of all files, which then hold together; a name that SPDX does not
// have becomes a LicenseRef. Of other forms it is quoted what they refer to.
func debianLicense(raw []byte) stated {
	text := string(raw)
	if !strings.HasPrefix(text, "Format:") && !strings.HasPrefix(text, "Format-Specification:") {
		return stated{Text: commonLicenses(text)}
	}
	var all []string
	for line := range strings.Lines(text) {
		name, ok := strings.CutPrefix(line, "License:")
		if name = strings.TrimSpace(name); !ok || name == "" {
			continue
		}
		one, known := spdxExpression(spdxNames(name))
		if !known {
			one = licenseRef(name)
		}
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	slices.Sort(all)
	for i, one := range all {
		if len(all) > 1 && strings.Contains(one, " OR ") {
			all[i] = "(" + one + ")"
		}
	}
	return stated{Expression: strings.Join(all, " AND ")}
}

// refMark begins the name of a licence that SPDX does not have.
const refMark = "LicenseRef-"

// licenseRef is Debian's name for a licence, or for several, in the letters that
// SPDX allows.
func licenseRef(name string) string {
	return refMark + "Debian-" + strings.Trim(regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(strings.ReplaceAll(name, "+", "-or-later"), "-"), "-")
}

// spdxNames translates Debian's short names.
func spdxNames(text string) string {
	if strings.Contains(text, ",") {
		return "" // binds in a way of its own
	}
	words := strings.Fields(text)
	for i, word := range words {
		if id, ok := debianNames[strings.ToLower(word)]; ok {
			words[i] = id
		}
	}
	return strings.Join(words, " ")
}

// commonLicenses are the licences that a free text refers to.
func commonLicenses(text string) string {
	var names []string
	for _, m := range regexp.MustCompile(`/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(names, m[1]) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return ""
	}
	return shortened("the copyright file refers to " + strings.Join(names, ", "))
}

// licenses are identifiers of https://spdx.org/licenses/ that packages use.
var licenses = []string{
	"0BSD", "AFL-2.1", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-1.1", "Apache-2.0", "APSL-2.0",
	"Artistic-1.0", "Artistic-1.0-Perl", "Artistic-2.0", "blessing", "BlueOak-1.0.0", "BSD-1-Clause", "BSD-2-Clause", "BSD-2-Clause-Patent", "BSD-3-Clause",
	"BSD-3-Clause-Clear", "BSD-4-Clause", "BSD-4-Clause-UC", "BSL-1.0", "bzip2-1.0.6", "CC-BY-3.0", "CC-BY-4.0",
	"CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDDL-1.0", "curl", "EPL-1.0", "EPL-2.0", "EUPL-1.2", "FSFAP", "FSFUL", "FSFULLR",
	"GFDL-1.1-or-later", "GFDL-1.2-only", "GFDL-1.2-or-later", "GFDL-1.3-only", "GFDL-1.3-or-later",
	"GPL-1.0-only", "GPL-1.0-or-later", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later",
	"HPND", "ICU", "ISC", "JSON", "LGPL-2.0-only", "LGPL-2.0-or-later", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later",
	"libpng-2.0", "MIT", "MIT-0", "MIT-CMU", "MPL-1.1", "MPL-2.0", "MS-PL", "NCSA", "OFL-1.1", "OpenSSL", "PHP-3.01", "PSF-2.0",
	"Python-2.0", "Python-2.0.1", "Ruby", "SSH-OpenSSH", "Unicode-3.0", "Unicode-DFS-2016", "Unlicense", "UPL-1.0", "Vim", "W3C", "WTFPL", "X11", "Zlib", "ZPL-2.1",
}

// exceptions are identifiers that may follow WITH.
var exceptions = []string{
	"Autoconf-exception-2.0", "Autoconf-exception-3.0", "Autoconf-exception-generic", "Bison-exception-2.2", "Classpath-exception-2.0",
	"GCC-exception-3.1", "Libtool-exception", "Linux-syscall-note", "LLVM-exception", "OpenSSL-exception",
}

// formerLicenses are identifiers that SPDX has replaced.
var formerLicenses = map[string]string{
	"AGPL-3.0": "AGPL-3.0-only", "GPL-1.0": "GPL-1.0-only", "GPL-2.0": "GPL-2.0-only", "GPL-2.0+": "GPL-2.0-or-later",
	"GPL-3.0": "GPL-3.0-only", "GPL-3.0+": "GPL-3.0-or-later", "LGPL-2.0": "LGPL-2.0-only", "LGPL-2.1": "LGPL-2.1-only",
	"LGPL-2.1+": "LGPL-2.1-or-later", "LGPL-3.0": "LGPL-3.0-only", "LGPL-3.0+": "LGPL-3.0-or-later",
}

// debianNames are short names of Debian's copyright files, in lower case.
var debianNames = map[string]string{
	"expat": "MIT", "apache-2": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "artistic-2": "Artistic-2.0", "bsd-2-clause": "BSD-2-Clause",
	"bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "cc0": "CC0-1.0", "psf": "PSF-2.0", "psf-2": "PSF-2.0",
	"agpl-3": "AGPL-3.0-only", "agpl-3+": "AGPL-3.0-or-later",
	"gpl-1": "GPL-1.0-only", "gpl-1+": "GPL-1.0-or-later", "gpl-2": "GPL-2.0-only", "gpl-2+": "GPL-2.0-or-later",
	"gpl-3": "GPL-3.0-only", "gpl-3+": "GPL-3.0-or-later", "lgpl-2": "LGPL-2.0-only", "lgpl-2+": "LGPL-2.0-or-later",
	"lgpl-2.1": "LGPL-2.1-only", "lgpl-2.1+": "LGPL-2.1-or-later", "lgpl-3": "LGPL-3.0-only", "lgpl-3+": "LGPL-3.0-or-later",
	"gpl-2.0+": "GPL-2.0-or-later", "gpl-3.0+": "GPL-3.0-or-later", "lgpl-2.0+": "LGPL-2.0-or-later", "lgpl-3.0+": "LGPL-3.0-or-later",
	"gfdl-1.1+": "GFDL-1.1-or-later", "gfdl-1.2": "GFDL-1.2-only", "gfdl-1.2+": "GFDL-1.2-or-later", "gfdl-1.3": "GFDL-1.3-only", "gfdl-1.3+": "GFDL-1.3-or-later",
	"boost-1.0": "BSL-1.0", "mpl-2": "MPL-2.0",
}

// pythonClasses are the last words of Python's licence classifiers that mean one
// licence.
var pythonClasses = map[string]string{
	"MIT License": "MIT", "MIT No Attribution License (MIT-0)": "MIT-0", "Apache Software License": "Apache-2.0",
	"ISC License (ISCL)": "ISC", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "The Unlicense (Unlicense)": "Unlicense",
	"Python Software Foundation License": "PSF-2.0", "zlib/libpng License": "Zlib",
	"GNU General Public License v2 (GPLv2)": "GPL-2.0-only", "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
	"GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later", "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
}
