package seed

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fsimg/fat"
	"github.com/smolvm/smolvm/internal/fsimg/fat/fattest"
	"github.com/smolvm/smolvm/internal/wire"
)

// tricky are values that break careless encoders.
var tricky = map[string]string{
	"quotes":     `a "b" 'c' \d`,
	"lines":      "one\ntwo\r\n\tthree\x00four",
	"yaml":       "yes: no\n- &a *b !!python/object %TAG # ---\n...\n{{ jinja }}",
	"controls":   "\x7f\u0085\u2028\u2029\ufeff\uffff",
	"unicode":    "Zwölf 日本語 🙂 <>&",
	"":           "empty name",
	"key: 'x'\n": "",
}

func sample() Input {
	return Input{
		Hostname: "one", InstanceID: "i-1", HostKeyPrivate: "-----BEGIN\nxyz\n-----END\n", HostKeyPublic: "ssh-ed25519 AAAA host",
		AuthorizedKeys: []string{"ssh-ed25519 BBBB client"}, CACerts: []string{"-----BEGIN CERTIFICATE-----\nAA==\n"},
		Env: tricky, Build: true, Files: []wire.WriteFile{{Path: "/etc/x", Content: tricky["yaml"], Permissions: "0600"}},
		Services: []wire.Service{{Name: "gateway", Run: []string{"a", tricky["quotes"]}, Port: 80, Health: "/", Restart: wire.RestartAlways}},
	}
}

// written writes a seed and reads the volume back.
func written(t *testing.T, d Document) map[string][]byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed.img")
	if err := Write(path, d); err != nil {
		t.Fatal(err)
	}
	return volume(t, path)
}

func volume(t *testing.T, path string) map[string][]byte {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, list, err := fattest.Read(image)
	if err != nil || got != "CIDATA" {
		t.Fatalf("label %q, %v", got, err)
	}
	files := map[string][]byte{}
	for _, f := range list {
		files[f.Name] = f.Data
	}
	return files
}

// decode does what a reader of the seed does.
func decode(t *testing.T, files map[string][]byte) (d Document) {
	t.Helper()
	user, ok := bytes.CutPrefix(files["user-data"], []byte("#cloud-config\n"))
	if !ok {
		t.Error("user-data does not start with #cloud-config")
	}
	err := errors.Join(json.Unmarshal(user, &d.User), json.Unmarshal(files["meta-data"], &d.Meta),
		json.Unmarshal(files["network-config"], &d.Network), json.Unmarshal(files[wire.SessionFile], &d.Session))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestReadsBack(t *testing.T) {
	want := Build(sample())
	files := written(t, want)
	if len(files) != 4 {
		t.Errorf("%d files, want 4", len(files))
	}
	if d := cmp.Diff(want, decode(t, files)); d != "" {
		t.Error(d)
	}
}

func TestLargeKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.img")
	in := sample()
	if err := Write(path, Build(in)); err != nil {
		t.Fatal(err)
	}
	small, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	in.HostKeyPrivate = strings.Repeat("0123456789abcdef", 1<<16)
	if err := Write(path, Build(in)); err != nil {
		t.Fatal(err)
	}
	large, err := os.Stat(path)
	if err != nil || small.Size() > 1<<16 || large.Size() < 1<<20 {
		t.Errorf("sizes %d and %d, %v", small.Size(), large.Size(), err)
	}
	if decode(t, volume(t, path)).User.HostKeys.Private != in.HostKeyPrivate {
		t.Error("the key of 1 MiB did not survive")
	}
}

// TestValidYAML asks the parser that cloud-init uses.
func TestValidYAML(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil || exec.Command(python, "-c", "import yaml").Run() != nil {
		t.Skip("python3 with the yaml module is not installed")
	}
	want := Build(sample())
	files := written(t, want)
	for name, data := range files {
		cmd := exec.Command(python, "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin.buffer)))")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files[name] = out
	}
	files["user-data"] = append([]byte("#cloud-config\n"), files["user-data"]...)
	if d := cmp.Diff(want, decode(t, files)); d != "" {
		t.Error(d)
	}
}

func TestContents(t *testing.T) {
	u := Build(sample()).User
	if u.SSHPasswordAuth || u.DisableRoot || !u.DeleteHostKeys || !u.Users[0].LockPassword || u.Users[0].UID != 1000 {
		t.Errorf("the account is not one with keys only: %+v", u)
	}
	n := Build(sample()).Network.Ethernets["uplink"]
	if n.DHCP4 || n.Addresses[0] != "10.0.2.15/24" || n.Routes[0].Via != "10.0.2.2" || n.Nameservers.Addresses[0] != "10.0.2.3" {
		t.Errorf("the address is not static: %+v", n)
	}
}

func TestPrivateAndReplaced(t *testing.T) {
	for name, plant := range map[string]func(path, victim string) error{
		"file":    func(path, _ string) error { return os.WriteFile(path, []byte("old"), 0o666) },
		"symlink": func(path, victim string) error { return os.Symlink(victim, path) },
		"link":    func(path, victim string) error { return os.Link(victim, path) },
		"fifo":    func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, victim := filepath.Join(dir, "seed.img"), filepath.Join(dir, "victim")
			if err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o644), plant(path, victim), plant(path+".new", victim)); err != nil {
				t.Fatal(err)
			}
			if err := Write(path, Build(sample())); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if _, err := os.Lstat(path + ".new"); err == nil {
				t.Error("the temporary file is still there")
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != "mine" {
				t.Errorf("another file was changed: %q %v", got, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	in := sample()
	in.Env = map[string]string{"X": "a\xffb"}
	err := Write(filepath.Join(dir, "seed.img"), Build(in))
	if fault.CodeOf(err) != fault.Usage {
		t.Errorf("a value that is not text: %v", err)
	}
	in.Env = map[string]string{"X": strings.Repeat("x", fat.MaxContent)}
	if err := Write(filepath.Join(dir, "seed.img"), Build(in)); err == nil {
		t.Error("a seed that is too large was accepted")
	}
	err = Write(filepath.Join(dir, "missing", "seed.img"), Build(sample()))
	if fault.CodeOf(err) != fault.Storage {
		t.Errorf("a folder that is not there: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func FuzzRoundTrip(f *testing.F) {
	for name, value := range tricky {
		f.Add(name, value, value)
	}
	f.Fuzz(func(t *testing.T, name, value, content string) {
		want := Build(Input{Hostname: value, Env: map[string]string{name: value}, Files: []wire.WriteFile{{Path: name, Content: content}}})
		files, err := encode(want)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := fat.Write(&b, label, files); err != nil {
			t.Fatal(err)
		}
		_, list, err := fattest.Read(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][]byte{}
		for _, file := range list {
			got[file.Name] = file.Data
		}
		if d := cmp.Diff(want, decode(t, got)); d != "" {
			t.Error(d)
		}
	})
}
