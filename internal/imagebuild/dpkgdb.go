package imagebuild

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// dbFile is one file of dpkg's database, named relative to /var/lib/dpkg.
type dbFile struct {
	name string
	mode int64
	data []byte
}

// dpkgDatabase writes what dpkg itself would have on disk after unpacking the
// packages: each is "install ok unpacked", its scripts, lists and triggers are in
// place, and `dpkg --configure -a` finishes the work. The preinst scripts have
// not run; whoever configures runs them first.
func dpkgDatabase(debs []*deb) []dbFile {
	sorted := slices.SortedFunc(slices.Values(debs), func(a, b *deb) int { return cmp.Compare(a.stem(), b.stem()) })
	var status bytes.Buffer
	files := []dbFile{{name: "info/format", mode: 0o644, data: []byte("1\n")}, {name: "available", mode: 0o644}}
	for _, d := range sorted {
		status.WriteString(d.statusParagraph())
		files = append(files, d.infoFiles()...)
	}
	files = append(files, dbFile{name: "status", mode: 0o644, data: status.Bytes()})
	return append(files, triggerFiles(sorted)...)
}

// statusParagraph is the package's entry in the status file.
func (d *deb) statusParagraph() string {
	var b strings.Builder
	for i, line := range d.control {
		b.WriteString(line + "\n")
		if i == 0 {
			b.WriteString("Status: install ok unpacked\n")
		}
	}
	conffiles := d.conffiles()
	if len(conffiles) > 0 {
		b.WriteString("Conffiles:\n")
	}
	for _, path := range conffiles {
		fmt.Fprintf(&b, " %s %s\n", path, cmp.Or(d.md5[path], "newconffile"))
	}
	return b.String() + "\n"
}

// infoFiles are the package's files below info/: its control members and the
// list of its paths.
func (d *deb) infoFiles() []dbFile {
	var files []dbFile
	for name, data := range d.members {
		mode := int64(0o644)
		if slices.Contains([]string{"preinst", "postinst", "prerm", "postrm", "config"}, name) {
			mode = 0o755
		}
		files = append(files, dbFile{name: "info/" + d.stem() + "." + name, mode: mode, data: data})
	}
	var list strings.Builder
	for _, f := range d.files {
		if f == "/" {
			f = "/." // as dpkg names the root
		}
		list.WriteString(f + "\n")
	}
	files = append(files, dbFile{name: "info/" + d.stem() + ".list", mode: 0o644, data: []byte(list.String())})
	slices.SortFunc(files, func(a, b dbFile) int { return cmp.Compare(a.name, b.name) })
	return files
}

// triggerFiles register which package wants to know about which trigger: a path
// in triggers/File, any other name in a file of its own.
func triggerFiles(debs []*deb) []dbFile {
	interests := map[string]string{"File": ""}
	for _, d := range debs {
		for line := range strings.Lines(string(d.members["triggers"])) {
			words := strings.Fields(line)
			if len(words) != 2 || !strings.HasPrefix(words[0], "interest") {
				continue
			}
			who := d.stem()
			if words[0] == "interest-noawait" {
				who += "/noawait"
			}
			if strings.HasPrefix(words[1], "/") {
				interests["File"] += words[1] + " " + who + "\n"
			} else {
				interests[words[1]] += who + "\n"
			}
		}
	}
	var files []dbFile
	for name, text := range interests {
		files = append(files, dbFile{name: "triggers/" + name, mode: 0o644, data: []byte(text)})
	}
	slices.SortFunc(files, func(a, b dbFile) int { return cmp.Compare(a.name, b.name) })
	return files
}
