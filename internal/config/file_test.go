package config

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smolvm/smolvm/internal/fault"
)

// key is a public key in form; nobody has its private half.
func key(n byte) string {
	raw := make([]byte, keyLength)
	copy(raw, "Ed")
	raw[2] = n
	return base64.StdEncoding.EncodeToString(raw)
}

// homeWith makes a state folder with a config.toml.
func homeWith(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, fileName), []byte(text), 0o600))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, home string) Config {
	t.Helper()
	c, err := Load([]string{"SMOLVM_HOME=" + home}, "")
	must(t, err)
	return c
}

func TestLoadFile(t *testing.T) {
	home := homeWith(t, `# mine
manifest = "https://Example.org/images/"

[[catalogue]]
address = "https://example.org/images/manifest.json"
keys = ["`+key(1)+`", "`+key(2)+`"] # both of us
threshold = 2
mirrors = ["https://mirror.example/x", "/srv/images", "oci://127.0.0.1:5000/images:1"]

[[catalogue]]
address = "/srv/private"
keys = ["`+key(3)+`"]

[[catalogue]]
address = "oci://registry.example/smolvm:1"
`)
	c := load(t, home)
	want := []Catalogue{
		{
			Address: "https://example.org/images/manifest.json", Keys: []string{key(1), key(2)}, Threshold: 2,
			Mirrors: []string{"https://mirror.example/x", "/srv/images", "oci://127.0.0.1:5000/images:1"},
		},
		{Address: "/srv/private", Keys: []string{key(3)}, Threshold: 1},
		{Address: "oci://registry.example/smolvm:1"},
	}
	if d := cmp.Diff(want, c.Catalogues); d != "" {
		t.Error(d)
	}
	if c.Manifest != "https://Example.org/images/" || c.ManifestFrom != c.File || c.File != filepath.Join(home, "config.toml") {
		t.Errorf("manifest %s from %s", c.Manifest, c.ManifestFrom)
	}
	if entry, ok := c.Catalogue(c.Manifest); !ok || entry.Threshold != 2 {
		t.Errorf("the entry of the default catalogue: %+v", entry)
	}
	c, err := Load([]string{"SMOLVM_HOME=" + home, "SMOLVM_MANIFEST=/elsewhere"}, "")
	if err != nil || c.Manifest != "/elsewhere" || c.ManifestFrom != "SMOLVM_MANIFEST" {
		t.Errorf("the environment does not overrule the file: %s from %s, %v", c.Manifest, c.ManifestFrom, err)
	}
}

func TestSameAddress(t *testing.T) {
	for _, same := range [][]string{
		{"https://example.org/a", "HTTPS://EXAMPLE.org/a/", "https://example.org/a/manifest.json"},
		{"/srv/images", "/srv/images/manifest.json", "/srv/./images/", "file:///srv/images", "file://localhost/srv/images/manifest.json"},
		{"oci://host:5000/repo:1", "oci://host:5000/repo:1#manifest.json"},
		{"http://example.org", "http://example.org/", "http://example.org/manifest.json"},
	} {
		for _, other := range same[1:] {
			if !SameAddress(same[0], other) {
				t.Errorf("%s and %s are two", same[0], other)
			}
		}
	}
	for _, two := range [][2]string{
		{"https://example.org/a", "http://example.org/a"},
		{"https://example.org/a", "https://example.org/A"},
		{"https://example.org/a", "https://example.org/a/b"},
		{"https://example.org", "https://example.org.evil.example"},
		{"oci://host/repo:1", "oci://host/repo:2"},
		{"/srv/images", "/srv/images2"},
	} {
		if SameAddress(two[0], two[1]) {
			t.Errorf("%s and %s are one", two[0], two[1])
		}
	}
}

func TestFileRefuses(t *testing.T) {
	entry := func(lines string) string { return "[[catalogue]]\naddress = \"/srv/x\"\n" + lines }
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"no TOML":            {"manifest = ", []string{"line 1"}},
		"misspelt key":       {`manifset = "/x"`, []string{"manifset", "Did you mean manifest?"}},
		"key in other case":  {`Manifest = "/x"`, []string{"Manifest", "Did you mean manifest?"}},
		"unknown key":        {`telemetry = true`, []string{"telemetry", "catalogue, manifest"}},
		"dotted key":         {`catalogue.address = "/x"`, []string{"catalogue.address"}},
		"unknown table":      {"[network]", []string{"network", "[[catalogue]]"}},
		"single brackets":    {"[catalogue]\naddress = \"/x\"", []string{"[[catalogue]]"}},
		"a table below":      {entry("[catalogue.more]"), []string{"catalogue.more"}},
		"misspelt below":     {entry(`key = ["` + key(1) + `"]`), []string{`"key"`, "Did you mean keys?"}},
		"inline, misspelt":   {`catalogue = [{adress = "/x"}]`, []string{"unknown field", "adress"}},
		"twice the same key": {"manifest = \"/x\"\nmanifest = \"/y\"", []string{"manifest"}},
		"number for text":    {"manifest = 5", []string{"line 1"}},
		"relative manifest":  {`manifest = "images"`, []string{"manifest", "relative", "whole path"}},
		"tilde":              {`manifest = "~/images"`, []string{"starts with ~"}},
		"scheme":             {`manifest = "ftp://x/y"`, []string{"unknown scheme"}},
		"control character":  {`manifest = "/x\u001b[31m"`, []string{"control characters"}},
		"long address":       {`manifest = "/` + strings.Repeat("x", 3000) + `"`, []string{"3001 bytes"}},
		"no address":         {"[[catalogue]]\nmirrors = [\"/x\"]", []string{"address"}},
		"no keys":            {entry("keys = []"), []string{"names no keys"}},
		"only a threshold":   {entry("threshold = 1"), []string{"names no keys"}},
		"high threshold":     {entry("threshold = 2\nkeys = [\"" + key(1) + "\"]"), []string{"threshold 2"}},
		"negative threshold": {entry("threshold = -1\nkeys = [\"" + key(1) + "\"]"), []string{"threshold -1"}},
		"no key":             {entry(`keys = ["RWQ"]`), []string{"not a public key", "starts with RW"}},
		"a file of a key":    {entry(`keys = ["/home/x/minisign.pub"]`), []string{"not a public key"}},
		"a key twice":        {entry(`keys = ["` + key(1) + `", "` + key(1) + `"]`), []string{"twice"}},
		"33 keys":            {entry(`keys = [` + strings.Repeat(`"`+key(1)+`",`, 33) + `]`), []string{"33 keys"}},
		"relative mirror":    {entry(`mirrors = ["images"]`), []string{"mirrors", "relative"}},
		"mirror twice":       {entry(`mirrors = ["/x", "/x"]`), []string{"twice"}},
		"17 mirrors":         {entry(`mirrors = [` + strings.Repeat(`"/x",`, 17) + `]`), []string{"17 mirrors"}},
		"catalogue twice":    {entry("") + "[[catalogue]]\naddress = \"file:///srv/x/manifest.json\"", []string{"there twice"}},
		"huge":               {strings.Repeat("#\n", maxFile), []string{"more than"}},
		"NUL":                {"manifest = \"/x\x00\"", []string{"line 1"}},
		"not UTF-8":          {"manifest = \"/\xff\"", []string{"line 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			home := homeWith(t, c.text)
			_, err := Load([]string{"SMOLVM_HOME=" + home}, "")
			wantUsage(t, err, append(c.want, filepath.Join(home, "config.toml"))...)
			if len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\x00\x1b") {
				t.Errorf("the error is %.700q", err.Error())
			}
		})
	}
}

// A private half that was pasted by mistake is not repeated.
func TestKeysAreNotShown(t *testing.T) {
	secret := "RWQAAEIy" + strings.Repeat("S", 204)
	_, err := Load([]string{"SMOLVM_HOME=" + homeWith(t, "[[catalogue]]\naddress=\"/x\"\nkeys=[\""+secret+"\"]")}, "")
	if err == nil || strings.Contains(err.Error(), "SSSS") {
		t.Errorf("err = %v", err)
	}
}

func TestUnusualFiles(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, fileName)
	loading := func() error { _, err := Load([]string{"SMOLVM_HOME=" + home}, ""); return err }
	must(t, loading()) // none
	must(t, syscall.Mkfifo(path, 0o600))
	wantUsage(t, loading(), "not a regular file")
	must(t, os.Remove(path))
	must(t, os.Mkdir(path, 0o700))
	wantUsage(t, loading(), "not a regular file")
	must(t, os.Remove(path))
	must(t, os.Symlink("/dev/zero", path))
	wantUsage(t, loading(), "not a regular file")
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Chmod(path, 0o666))
	wantUsage(t, loading(), "everybody may write", "chmod o-w")
}

// Adding and removing keys leaves all else as it was written.
func TestEditing(t *testing.T) {
	const address = "/srv/x"
	entry := "[[catalogue]]\naddress = \"/srv/x\"\n"
	tests := map[string]struct {
		before string
		do     func(c Config) (bool, error)
		after  string // "": unchanged
	}{
		"into nothing":      {"", add(address, 1), entry + "keys = [\"" + key(1) + "\"]\n"},
		"behind the last":   {"manifest = \"/y\"", add(address, 1), "manifest = \"/y\"\n\n" + entry + "keys = [\"" + key(1) + "\"]\n"},
		"to an entry":       {"# a\n" + entry + "# b\n\n# c\n", add(address+"/manifest.json", 1), "# a\n" + entry + "keys = [\"" + key(1) + "\"]\n# b\n\n# c\n"},
		"no last line end":  {"[[catalogue]]\naddress = \"/srv/x\" # mine", add(address, 1), "[[catalogue]]\naddress = \"/srv/x\" # mine\nkeys = [\"" + key(1) + "\"]\n"},
		"to a list":         {entry + "keys = ['" + key(1) + "'] # one\n", add(address, 2), entry + "keys = ['" + key(1) + "', \"" + key(2) + "\"] # one\n"},
		"to a long list":    {entry + "keys = [\n  \"" + key(1) + "\", # Ann\n  \"" + key(2) + "\", # Bob\n]\n", add(address, 3), entry + "keys = [\n  \"" + key(1) + "\", # Ann\n  \"" + key(2) + "\", \"" + key(3) + "\", # Bob\n]\n"},
		"it is there":       {entry + "keys = [\"" + key(1) + "\"]\n", add(address, 1), ""},
		"to the second":     {"[[catalogue]]\naddress = \"/y\"\nkeys = [\"" + key(9) + "\"]\n" + entry, add(address, 1), "[[catalogue]]\naddress = \"/y\"\nkeys = [\"" + key(9) + "\"]\n" + entry + "keys = [\"" + key(1) + "\"]\n"},
		"remove the first":  {entry + "keys = [\"" + key(1) + "\", \"" + key(2) + "\"]\n", remove(address, 1), entry + "keys = [\"" + key(2) + "\"]\n"},
		"remove the last":   {entry + "keys = [\"" + key(1) + "\", \"" + key(2) + "\",]\n", remove(address, 2), entry + "keys = [\"" + key(1) + "\",]\n"},
		"remove the only":   {entry + "threshold = 1\nkeys = [\n  \"" + key(1) + "\",\n] # x\n# y\n", remove(address, 1), entry + "# y\n"},
		"only, other order": {entry + "keys = [\"" + key(1) + "\"]\n# z\nthreshold = 1", remove(address, 1), entry + "# z\n"},
		"it is not there":   {entry + "keys = [\"" + key(1) + "\"]\n", remove(address, 2), ""},
		"no such entry":     {entry, remove("/srv/other", 2), ""},
		"text with quotes":  {"", add(`/srv/"a\b ü`, 1), "[[catalogue]]\naddress = \"/srv/\\\"a\\\\b ü\"\nkeys = [\"" + key(1) + "\"]\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := load(t, homeWith(t, test.before))
			changed, err := test.do(c)
			if err != nil || changed != (test.after != "") {
				t.Fatalf("changed %v, %v", changed, err)
			}
			if test.after == "" {
				test.after = test.before
			}
			got, err := os.ReadFile(c.File)
			if d := cmp.Diff(test.after, string(got)); d != "" || err != nil {
				t.Error(d, err)
			}
			load(t, c.Home)
			left, err := filepath.Glob(filepath.Join(c.Home, ".config.toml-*"))
			if len(left) > 0 || err != nil {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

func add(address string, n byte) func(Config) (bool, error) {
	return func(c Config) (bool, error) { return c.AddKey(context.Background(), address, key(n)) }
}

func remove(address string, n byte) func(Config) (bool, error) {
	return func(c Config) (bool, error) { return c.RemoveKey(context.Background(), address, key(n)) }
}

func TestEditingRefuses(t *testing.T) {
	entry := "[[catalogue]]\naddress = \"/srv/x\"\n"
	for name, test := range map[string]struct {
		before string
		do     func(Config) (bool, error)
		says   string
	}{
		"below the threshold": {entry + "threshold = 2\nkeys = [\"" + key(1) + "\", \"" + key(2) + "\"]\n", remove("/srv/x", 1), "2 keys have to sign"},
		"inline tables":       {"catalogue = [{address = \"/srv/x\"}]\n", add("/srv/x", 1), "[[catalogue]]"},
		"relative address":    {"", add("x", 1), "relative"},
		"no key":              {"", func(c Config) (bool, error) { return c.AddKey(context.Background(), "/srv/x", "RWQ") }, "not a public key"},
		"33 keys":             {entry + "keys = [" + manyKeys(32) + "]\n", add("/srv/x", 99), "33 keys"},
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t, homeWith(t, test.before))
			if _, err := test.do(c); err == nil || !strings.Contains(err.Error()+fault.HintOf(err), test.says) {
				t.Errorf("err = %v, want one with %q", err, test.says)
			}
			got, err := os.ReadFile(c.File)
			if string(got) != test.before || err != nil {
				t.Errorf("the file was changed: %s", got)
			}
		})
	}
}

func manyKeys(n byte) string {
	var keys []string
	for i := range n {
		keys = append(keys, `"`+key(i)+`"`)
	}
	return strings.Join(keys, ", ")
}

// A configuration that is kept elsewhere stays there, with its permissions.
func TestLinkedFile(t *testing.T) {
	elsewhere, home := t.TempDir(), filepath.Join(t.TempDir(), "new", "home")
	target := filepath.Join(elsewhere, "smolvm.toml")
	must(t, os.WriteFile(target, []byte("# kept\n"), 0o640))
	must(t, os.MkdirAll(home, 0o755))
	must(t, os.Symlink(target, filepath.Join(home, fileName)))
	if changed, err := add("/srv/x", 1)(load(t, home)); !changed || err != nil {
		t.Fatal(changed, err)
	}
	info, err := os.Lstat(filepath.Join(home, fileName))
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	raw, err := os.ReadFile(target)
	if err != nil || !strings.HasPrefix(string(raw), "# kept\n") || !strings.Contains(string(raw), key(1)) {
		t.Errorf("%s, %v", raw, err)
	}
	if info, err = os.Stat(target); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	must(t, os.Remove(target))
	if _, err := add("/srv/x", 1)(load(t, home)); err == nil || fault.CodeOf(err) != fault.Storage {
		t.Errorf("a link to nowhere: %v", err)
	}
}

func TestManyWritersAtOnce(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home") // not there yet
	var group sync.WaitGroup
	const writers = 20
	for n := range byte(writers) {
		group.Go(func() {
			c, err := Load([]string{"SMOLVM_HOME=" + home}, "")
			if err != nil {
				t.Error(err)
				return
			}
			if changed, err := add("/srv/x", n)(c); !changed || err != nil {
				t.Error(changed, err)
			}
		})
	}
	group.Wait()
	entry, ok := load(t, home).Catalogue("/srv/x")
	want := make([]string, writers)
	for n := range want {
		want[n] = key(byte(n))
	}
	if d := cmp.Diff(want, entry.Keys, cmpopts.SortSlices(strings.Compare)); d != "" || !ok {
		t.Error(d)
	}
	info, err := os.Stat(filepath.Join(home, fileName))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("manifest = \"/x\"\n[[catalogue]]\naddress = \"/srv/x\"\nkeys = [\"" + key(1) + "\"]\n"))
	f.Add([]byte("[[catalogue]]\naddress = \"/y\"\n[[catalogue]]\n\"address\" = '/srv/x' # c\nkeys=[\n'" + key(2) + "', # d\n]\nthreshold=1"))
	f.Add([]byte("catalogue = [{address = \"/srv/x\"}]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		before, err := decodeFile(raw, "config.toml")
		if err != nil {
			return
		}
		c := Config{Home: t.TempDir()}
		c.File = filepath.Join(c.Home, fileName)
		must(t, os.WriteFile(c.File, raw, 0o600))
		changed, err := add("/srv/x", 7)(c)
		if err != nil {
			return // refused, with the file as it was
		}
		after, err := c.again()
		if err != nil || changed && len(after.Catalogues) < len(before.Catalogues) {
			t.Fatalf("%v, %+v became %+v", err, before, after)
		}
		entry := after.Catalogues[after.find("/srv/x")]
		if len(entry.Keys) == 0 || entry.Keys[len(entry.Keys)-1] != key(7) && changed {
			t.Errorf("the key is not there: %+v", entry)
		}
		if _, err := remove("/srv/x", 7)(c); err != nil && fault.CodeOf(err) != fault.Conflict {
			t.Errorf("what was added cannot be removed: %v", err)
		}
	})
}

func (c Config) again() (document, error) {
	raw, err := readFile(c.File)
	if err != nil {
		return document{}, err
	}
	return decodeFile(raw, c.File)
}

// A file with a login in it is for its owner only.
func TestLoginIsForTheOwnerOnly(t *testing.T) {
	for address, want := range map[string]os.FileMode{
		"https://me:secret@example.org/i/": 0o600,
		"https://example.org/i@1/":         0o644,
		"oci://example.org/i:1":            0o644,
	} {
		c := load(t, homeWith(t, "manifest = \"/y\"\n"))
		if err := os.Chmod(c.File, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := c.AddKey(context.Background(), address, key(1)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(c.File); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", address, info.Mode(), err)
		}
	}
}

func TestStateFolderThatIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "home")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load([]string{"SMOLVM_HOME=" + path}, "/home/x")
	wantUsage(t, err, path, "is a file, not a folder", "SMOLVM_HOME")
}
