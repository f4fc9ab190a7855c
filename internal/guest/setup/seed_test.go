//go:build linux

package setup

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	hostseed "github.com/smolvm/smolvm/internal/seed"
	"github.com/smolvm/smolvm/internal/wire"
)

func TestReadSeedOfTheHost(t *testing.T) {
	document := hostseed.Build(hostseed.Input{
		Hostname: "box", InstanceID: "id-1", HostKeyPrivate: "private\n\"quoted\": {}", HostKeyPublic: "public",
		AuthorizedKeys: []string{"key one"}, CACerts: []string{"pem"}, Env: map[string]string{"A": "b: c\n- d"},
	})
	path := filepath.Join(t.TempDir(), "seed.img")
	if err := hostseed.Write(path, document); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSeed(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Seed{User: document.User, Meta: document.Meta, Network: document.Network, Session: document.Session}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReadSeedRefusesOtherDrives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.img")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSeed(path); err == nil {
		t.Error("accepted")
	}
}

// documents makes the three files, the user data changed.
func documents(t testing.TB, change func(*wire.UserData)) map[string][]byte {
	t.Helper()
	user := wire.UserData{Hostname: "box"}
	if change != nil {
		change(&user)
	}
	data, err := json.Marshal(user)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"user-data": append([]byte(header), data...), "meta-data": []byte(`{"instance-id":"i"}`),
	}
}

func TestDecodeSeedRefuses(t *testing.T) {
	for name, change := range map[string]func(*wire.UserData){
		"host name":        func(u *wire.UserData) { u.Hostname = "box\n127.0.0.1 bank.example" },
		"host name dash":   func(u *wire.UserData) { u.Hostname = "box-" },
		"user name":        func(u *wire.UserData) { u.Users = []wire.User{{Name: "a:b", UID: 1}} },
		"second root":      func(u *wire.UserData) { u.Users = []wire.User{{Name: "toor"}} },
		"shell":            func(u *wire.UserData) { u.Users = []wire.User{{Name: "a", UID: 1, Shell: "/bin/sh\nroot::0"}} },
		"sudo":             func(u *wire.UserData) { u.Users = []wire.User{{Name: "a", UID: 1, Sudo: "x\nALL ALL=ALL"}} },
		"relative file":    func(u *wire.UserData) { u.WriteFiles = []wire.WriteFile{{Path: "etc/x"}} },
		"the root as file": func(u *wire.UserData) { u.WriteFiles = []wire.WriteFile{{Path: "/.."}} },
	} {
		if _, err := DecodeSeed(documents(t, change)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good := documents(t, nil)
	for name, change := range map[string]func(map[string][]byte){
		"no user data":    func(f map[string][]byte) { delete(f, "user-data") },
		"no meta data":    func(f map[string][]byte) { delete(f, "meta-data") },
		"no instance id":  func(f map[string][]byte) { f["meta-data"] = []byte("{}") },
		"not JSON":        func(f map[string][]byte) { f["user-data"] = []byte("#cloud-config\nhostname: box\n") },
		"two documents":   func(f map[string][]byte) { f["user-data"] = append(f["user-data"], "{}"...) },
		"too long":        func(f map[string][]byte) { f["user-data"] = make([]byte, MaxDocument+1) },
		"wrong types":     func(f map[string][]byte) { f["user-data"] = []byte(`{"hostname":["box"]}`) },
		"damaged network": func(f map[string][]byte) { f["network-config"] = []byte("{") },
	} {
		files := map[string][]byte{"user-data": good["user-data"], "meta-data": good["meta-data"]}
		change(files)
		if _, err := DecodeSeed(files); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := DecodeSeed(good); err != nil {
		t.Errorf("good seed refused: %v", err)
	}
}

// withSession adds a session as seeds have it, and as those of earlier versions had it.
func withSession(t *testing.T, session wire.Session) (now, former map[string][]byte) {
	t.Helper()
	now, former = documents(t, nil), documents(t, func(u *wire.UserData) { u.Former = &session })
	var err error
	if now[wire.SessionFile], err = json.Marshal(session); err != nil {
		t.Fatal(err)
	}
	return now, former
}

func TestDecodeSeedRefusesSessions(t *testing.T) {
	for name, session := range map[string]wire.Session{
		"environment":     {Env: map[string]string{"A=B": ""}},
		"environment nul": {Env: map[string]string{"A": "\x00"}},
		"service path":    {Services: []wire.Service{{Name: "../x", Run: []string{"x"}}}},
		"service nothing": {Services: []wire.Service{{Name: "x"}}},
		"service port":    {Services: []wire.Service{{Name: "x", Run: []string{"x"}, Port: 70000}}},
	} {
		now, former := withSession(t, session)
		for form, files := range map[string]map[string][]byte{"now": now, "former": former} {
			if _, err := DecodeSeed(files); err == nil {
				t.Errorf("%s, %s: accepted", name, form)
			}
		}
	}
}

func TestDecodeSeedOfEarlierVersions(t *testing.T) {
	want := wire.Session{Env: map[string]string{"A": "b"}, Services: []wire.Service{{Name: "x", Run: []string{"x"}}}}
	now, former := withSession(t, want)
	both := maps.Clone(now)
	both["user-data"] = []byte(`{"hostname":"box","smolvm":{"build":true}}`)
	for form, files := range map[string]map[string][]byte{"now": now, "former": former, "both": both} {
		got, err := DecodeSeed(files)
		if err != nil || got.User.Former != nil {
			t.Errorf("%s: %v, %v", form, got.User.Former, err)
		}
		if diff := cmp.Diff(want, got.Session); diff != "" {
			t.Errorf("%s (-want +got)\n%s", form, diff)
		}
	}
}

func FuzzDecodeSeed(f *testing.F) {
	f.Add([]byte(header+`{"hostname":"box","users":[{"name":"agent","uid":1000}]}`), []byte(`{"instance-id":"i"}`))
	f.Add([]byte(`{"smolvm":{"env":{"A":"b"}}}`), []byte(`{"instance-id":"i","local-hostname":"x"}`))
	f.Fuzz(func(t *testing.T, user, meta []byte) {
		seed, err := DecodeSeed(map[string][]byte{"user-data": user, "meta-data": meta})
		if err != nil {
			return
		}
		if strings.ContainsAny(seed.Hostname(), "\n /") {
			t.Errorf("host name %q", seed.Hostname())
		}
		for _, u := range seed.User.Users {
			if strings.ContainsAny(u.Name+u.Shell, ":\n") {
				t.Errorf("user %+v", u)
			}
		}
	})
}

func TestHostname(t *testing.T) {
	seed := Seed{}
	if got := seed.Hostname(); got != "smolvm" {
		t.Errorf("got %q", got)
	}
	seed.Meta.LocalHostname = "meta"
	if got := seed.Hostname(); got != "meta" {
		t.Errorf("got %q", got)
	}
}

func TestAuthorizedKeysOfAllPlaces(t *testing.T) {
	seed := Seed{User: wire.UserData{AuthorizedKeys: []string{"a"}, Users: []wire.User{{AuthorizedKeys: []string{"b", "c"}}}}}
	if diff := cmp.Diff([]string{"a", "b", "c"}, seed.AuthorizedKeys()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestBecome gives a restored machine another sandbox's identity, and leaves none of
// the first one's keys.
func TestBecome(t *testing.T) {
	user := wire.User{Name: "agent", UID: 1000, AuthorizedKeys: []string{"old key"}}
	before := Seed{
		User: wire.UserData{Hostname: "first", HostKeys: wire.HostKeys{Private: "old"}, AuthorizedKeys: []string{"old key"}, Users: []wire.User{user}},
		Meta: wire.MetaData{InstanceID: "i-1"},
	}
	id := wire.Identity{InstanceID: "i-2", Hostname: "second", HostKey: "new", AuthorizedKeys: []string{"new key"}}
	after, err := before.Become(id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"new key"}, after.AuthorizedKeys()); diff != "" {
		t.Errorf("keys (-want +got)\n%s", diff)
	}
	if after.Hostname() != "second" || after.Meta.InstanceID != "i-2" || after.User.HostKeys.Private != "new" {
		t.Errorf("it became %+v", after)
	}
	if keys := before.AuthorizedKeys(); len(keys) != 2 || keys[1] != "old key" {
		t.Errorf("the first one's keys are now %q", keys)
	}
	one, two := t.TempDir(), t.TempDir()
	for root, seed := range map[string]Seed{one: before, two: after} {
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := WriteIdentity(root, seed); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"etc/hostname", "etc/hosts", "etc/machine-id"} {
		a, errA := os.ReadFile(filepath.Join(one, name))
		b, errB := os.ReadFile(filepath.Join(two, name))
		if errA != nil || errB != nil || string(a) == string(b) {
			t.Errorf("%s is the same: %s, %v, %v", name, a, errA, errB)
		}
	}
	for _, bad := range []wire.Identity{{Hostname: "x"}, {InstanceID: "i", Hostname: "a\nb"}} {
		if _, err := before.Become(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
