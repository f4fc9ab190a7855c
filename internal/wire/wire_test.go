package wire

import (
	"bytes"
	"encoding/json"
	"path"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestForms pins what travels between a host and a guest, and what cloud-init
// reads: renaming a field on one side only must not go unnoticed.
func TestForms(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{
			Message{Type: Ready, Boot: &BootReport{Kernel: "6.12", Agent: "1", UptimeMS: 2, StepsMS: map[string]int64{"net": 1}}},
			`{"type":"ready","boot":{"kernel":"6.12","agent":"1","uptime_ms":2,"steps_ms":{"net":1}}}`,
		},
		{Message{Type: Packed, Bytes: 5}, `{"type":"packed","bytes":5}`},
		{Message{Type: Clock, UnixNano: 6}, `{"type":"clock","unix_nano":6}`},
		{Message{Type: Failed, Text: "no disk"}, `{"type":"failed","text":"no disk"}`},
		{Start{}, `{}`},
		{
			Start{Argv: []string{"a", ""}, Env: map[string]string{"A": "b"}, Dir: "/x", User: "root"},
			`{"argv":["a",""],"env":{"A":"b"},"dir":"/x","user":"root"}`,
		},
		{Start{Keep: true, New: true, Session: "s"}, `{"keep":true,"new":true,"session":"s"}`},
		{
			Message{Type: Sessions, Sessions: []KeptSession{{Name: "1", Command: "a b", Started: 2, Used: 3, Clients: 1}}},
			`{"type":"sessions","sessions":[{"name":"1","command":"a b","started":2,"used":3,"clients":1}]}`,
		},
		{KeptSession{Name: "x", Title: "t", Status: new(int)}, `{"name":"x","command":"","title":"t","started":0,"used":0,"clients":0,"status":0}`},
		{Service{Name: "gateway", Run: []string{"a"}}, `{"name":"gateway","run":["a"]}`},
		{
			Service{Name: "gateway", Run: []string{"a"}, User: "root", Port: 80, Health: "/x", Restart: RestartNever},
			`{"name":"gateway","run":["a"],"user":"root","port":80,"health":"/x","restart":"never"}`,
		},
		{Size{Columns: 80, Rows: 24}, `{"columns":80,"rows":24}`},
		{MetaData{InstanceID: "i-1", LocalHostname: "one"}, `{"instance-id":"i-1","local-hostname":"one"}`},
		{HostKeys{Private: "p", Public: "q"}, `{"ed25519_private":"p","ed25519_public":"q"}`},
		{CACerts{}, `{}`},
		{WriteFile{Path: "/x", Content: "c"}, `{"path":"/x","content":"c"}`},
		{
			User{Name: "agent", UID: 1000, Shell: "/bin/sh", Sudo: "ALL", LockPassword: true, AuthorizedKeys: []string{"k"}},
			`{"name":"agent","uid":1000,"shell":"/bin/sh","sudo":"ALL","lock_passwd":true,"ssh_authorized_keys":["k"]}`,
		},
		{
			Ethernet{Match: Match{Name: "e*"}, Addresses: []string{"a/24"}, Routes: []Route{{To: "default", Via: "g"}}, Nameservers: Nameservers{Addresses: []string{"n"}}},
			`{"match":{"name":"e*"},"dhcp4":false,"addresses":["a/24"],"routes":[{"to":"default","via":"g"}],"nameservers":{"addresses":["n"]}}`,
		},
		{
			Nameservers{Addresses: []string{"n"}, Search: []string{"corp.example"}}, `{"addresses":["n"],"search":["corp.example"]}`,
		},
	} {
		got, err := json.Marshal(c.value)
		if err != nil || string(got) != c.want {
			t.Errorf("%T: %s, %v\nwant %s", c.value, got, err, c.want)
		}
		back := reflect.New(reflect.TypeOf(c.value))
		if err := json.Unmarshal(got, back.Interface()); err != nil {
			t.Error(err)
		} else if d := cmp.Diff(c.value, back.Elem().Interface()); d != "" {
			t.Errorf("%T does not survive: %s", c.value, d)
		}
	}
}

// TestUserDataKeys holds the keys against cloud-init's reference: its schema refuses
// others, and an empty ca_certs.
func TestUserDataKeys(t *testing.T) {
	var got map[string]any
	data, err := json.Marshal(UserData{WriteFiles: []WriteFile{{}}, CACertificates: CACerts{Trusted: []string{""}}})
	if err == nil {
		err = json.Unmarshal(data, &got)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"hostname", "ssh_pwauth", "disable_root", "ssh_deletekeys", "ssh_keys", "ssh_authorized_keys", "users", "ca_certs", "write_files",
		"resize_rootfs", "preserve_hostname", "manage_etc_hosts", "package_update",
	} {
		if _, ok := got[key]; !ok {
			t.Errorf("%s is missing", key)
		}
		delete(got, key)
	}
	for key := range got {
		t.Errorf("%s is not a key that cloud-init is known to read", key)
	}
	if data, err := json.Marshal(UserData{}); err != nil || bytes.Contains(data, []byte("ca_certs")) {
		t.Errorf("without certificates: %s, %v", data, err)
	}
}

// TestRolesFitSerials: a virtio disk's serial number has 20 bytes at most.
func TestRolesFitSerials(t *testing.T) {
	seen := map[string]bool{}
	for _, role := range []string{LayerRole + strconv.Itoa(0), LayerRole + strconv.Itoa(99), ScratchRole, SeedRole, ExtraRole} {
		if len(role) > 20 || strings.ContainsAny(role, ", =") || seen[role] {
			t.Errorf("role %q is too long, not plain, or there twice", role)
		}
		seen[role] = true
	}
}

// TestNamesAreOneWord: they stand in lines and on the kernel's command line.
func TestNamesAreOneWord(t *testing.T) {
	names := []string{PortName, OptMode, OptDrives, OptEpoch, AgentUser, RequestStart}
	for _, m := range []Mode{ModeRun, ModeBuild, ModeBootstrap, ModePack} {
		names = append(names, string(m))
	}
	for _, k := range []StreamKind{StreamControl, StreamSSH, StreamBulk} {
		names = append(names, string(k))
	}
	for _, name := range names {
		if name == "" || strings.ContainsAny(name, " \t\n=,\"") {
			t.Errorf("%q is not one word", name)
		}
	}
	if strings.ContainsAny(Magic, "\r\n") || !strings.HasSuffix(Magic, " ") {
		t.Errorf("magic %q does not leave room for the nonce on its line", Magic)
	}
}

func TestPathsAreClean(t *testing.T) {
	for _, p := range []string{AgentHome, Workspace, ModuleFolder, ModuleList} {
		if !path.IsAbs(p) || path.Clean(p) != p {
			t.Errorf("%q is not a clean absolute path", p)
		}
	}
	for _, dir := range []string{ScratchUpper, ScratchWork, ScratchHome, ScratchWorkspace, ScratchDocker, ScratchContainers, ScratchContainerd} {
		if dir == "" || strings.Contains(dir, "/") {
			t.Errorf("%q is not the name of a directory", dir)
		}
	}
}

// FuzzMessage: what the other side sends is decoded or refused, and what was
// decoded can be sent on.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"type":"ready","boot":{"steps_ms":{"a":1}}}`))
	f.Add([]byte(`{"type":3}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var m, back Message
		if json.Unmarshal(line, &m) != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &back); err != nil || (m.Boot == nil) != (back.Boot == nil) || m.Type != back.Type || m.UnixNano != back.UnixNano {
			t.Errorf("%+v became %+v, %v", m, back, err)
		}
	})
}

func TestSessionNames(t *testing.T) {
	for _, name := range []string{"1", "main", "a-b_c.d", strings.Repeat("x", 32)} {
		if !ValidSessionName(name) {
			t.Errorf("%q refused", name)
		}
	}
	for _, name := range []string{"", "-a", ".", "a b", "a/b", "é", "a\x1b", strings.Repeat("x", 33)} {
		if ValidSessionName(name) {
			t.Errorf("%q accepted", name)
		}
	}
}
