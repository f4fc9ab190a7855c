package imagebuild

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const libDemo = "Package: libdemo1\nVersion: 1:2.0-3\nArchitecture: amd64\nMulti-Arch: same\nDescription: demo\n more of it\n .\n end\n"

func demo(t *testing.T) *deb {
	t.Helper()
	d, err := parseControl(bytes.NewReader(tarOf(t,
		member{name: "./", kind: tar.TypeDir},
		member{name: "./control", data: libDemo},
		member{name: "./postinst", data: "#!/bin/sh\n"},
		member{name: "./conffiles", data: "/etc/demo.conf\nremove-on-upgrade /etc/old\n"},
		member{name: "./triggers", data: "# comment\nactivate-noawait ldconfig\ninterest-noawait /usr/share/demo\ninterest demo-ready\n"},
	)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDatabaseOfOnePackage(t *testing.T) {
	d := demo(t)
	data := tarOf(t,
		member{name: "./", kind: tar.TypeDir},
		member{name: "./etc/", kind: tar.TypeDir},
		member{name: "./etc/demo.conf", data: "x=1\n"},
	)
	err := d.copyTar(bytes.NewReader(data), func(_ *tar.Header, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range dpkgDatabase([]*deb{d}) {
		got[f.name] = string(f.data)
	}
	want := map[string]string{
		"info/format":                   "1\n",
		"available":                     "",
		"info/libdemo1:amd64.list":      "/.\n/etc\n/etc/demo.conf\n",
		"info/libdemo1:amd64.postinst":  "#!/bin/sh\n",
		"info/libdemo1:amd64.conffiles": "/etc/demo.conf\nremove-on-upgrade /etc/old\n",
		"info/libdemo1:amd64.triggers":  string(d.members["triggers"]),
		"triggers/File":                 "/usr/share/demo libdemo1:amd64/noawait\n",
		"triggers/demo-ready":           "libdemo1:amd64\n",
		"status": strings.Replace(libDemo, "libdemo1\n", "libdemo1\nStatus: install ok unpacked\n", 1) +
			"Conffiles:\n /etc/demo.conf d96bc0c4bc4d4c2d0dc3bd1d9ca4e49f\n\n",
	}
	want["status"] = strings.Replace(want["status"], "d96bc0c4bc4d4c2d0dc3bd1d9ca4e49f", d.md5["/etc/demo.conf"], 1)
	if len(d.md5["/etc/demo.conf"]) != 32 {
		t.Errorf("no sum of the configuration file: %q", d.md5)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestControlIsRefused(t *testing.T) {
	for name, control := range map[string]string{
		"empty":           "",
		"no version":      "Package: demo\nArchitecture: all\n",
		"path in name":    "Package: ../demo\nVersion: 1\nArchitecture: all\n",
		"path in arch":    "Package: demo\nVersion: 1\nArchitecture: ../all\n",
		"two paragraphs":  "Package: demo\nVersion: 1\nArchitecture: all\n\nPackage: other\n",
		"not a paragraph": "\x00\x01",
	} {
		t.Run(name, func(t *testing.T) {
			if d, err := parseControl(bytes.NewReader(tarOf(t, member{name: "control", data: control}))); err == nil {
				t.Errorf("accepted as %+v", d)
			}
		})
	}
	if _, err := parseControl(strings.NewReader("this is no archive, " + strings.Repeat("x", 600))); err == nil {
		t.Error("accepted what is no archive")
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add([]byte(libDemo))
	f.Fuzz(func(t *testing.T, control []byte) {
		d, err := parseControl(bytes.NewReader(tarOf(t, member{name: "control", data: string(control)})))
		if err == nil && (strings.ContainsAny(d.stem(), "/\x00\n") || strings.Contains(d.statusParagraph(), "\n\n\n")) {
			t.Errorf("stem %q", d.stem())
		}
	})
}

func TestRootArchive(t *testing.T) {
	var b bytes.Buffer
	root := newRootTar(&b, pathFilter([]string{"/usr/share/doc/*"}, []string{"/usr/share/doc/*/copyright"}))
	first := &deb{}
	if err := first.copyTar(bytes.NewReader(tarOf(t,
		member{name: "./", kind: tar.TypeDir},
		member{name: "./lib", kind: tar.TypeSymlink, link: "usr/lib"},
		member{name: "./usr/", kind: tar.TypeDir},
		member{name: "./usr/share/doc/a/", kind: tar.TypeDir},
		member{name: "./usr/share/doc/a/copyright", data: "free"},
		member{name: "./usr/share/doc/a/changelog", data: "long"},
		member{name: "./lib/x", data: "x"},
		member{name: "./lib/y", kind: tar.TypeLink, link: "./lib/x"},
	)), root.put); err != nil {
		t.Fatal(err)
	}
	second := &deb{}
	if err := second.copyTar(bytes.NewReader(tarOf(t, member{name: "./usr/", kind: tar.TypeDir})), root.put); err != nil {
		t.Fatal(err)
	}
	if err := root.link("/usr/local/bin/npm", "../lib/npm"); err != nil {
		t.Fatal(err)
	}
	if err := second.copyTar(bytes.NewReader(tarOf(t, member{name: "./usr/lib/x", data: "other"})), root.put); err == nil {
		t.Error("a file came from two packages and nothing was said")
	}
	if err := root.close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"lib": "-> usr/lib", "usr/": "", "usr/lib/": "", "usr/lib/x": "x", "usr/lib/y": "-> usr/lib/x",
		"usr/share/": "", "usr/share/doc/": "", "usr/share/doc/a/": "", "usr/share/doc/a/copyright": "free",
		"usr/local/": "", "usr/local/bin/": "", "usr/local/bin/npm": "-> ../lib/npm",
	}
	if diff := cmp.Diff(want, readTar(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func TestNamesStayBelowTheRoot(t *testing.T) {
	root := newRootTar(io.Discard, nil)
	for name, want := range map[string]string{
		"../etc/passwd": "etc/passwd", "/etc/../../x": "x", "./lib/../../y": "y", "bin/sh": "usr/bin/sh", "./": "",
	} {
		if got := root.canonical(name); got != want {
			t.Errorf("canonical(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestMatchPath(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"/usr/share/doc/*", "/usr/share/doc/a/b", true},
		{"/usr/share/doc/*", "/usr/share/doc", false},
		{"/usr/share/doc/*/copyright", "/usr/share/doc/a/copyright", true},
		{"/usr/share/doc/*/copyright", "/usr/share/doc/a/b/copyright", true},
		{"/usr/share/doc/*/copyright", "/usr/share/doc/copyright", false},
		{"/a", "/a", true},
		{"/a", "/ab", false},
		{"*", "", true},
		{"/a*b*c", "/axbxbc", true},
		{"/a*b*c", "/axc", false},
	} {
		if got := matchPath(c.pattern, c.name); got != c.want {
			t.Errorf("matchPath(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}
