//go:build linux

package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/wire"
)

// newRoot makes a root file system with the given files.
func newRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func exists(parts ...string) bool {
	_, err := os.Lstat(filepath.Join(parts...))
	return err == nil
}

func seedOf(change func(*Seed)) Seed {
	seed := Seed{
		User: wire.UserData{Hostname: "box"}, Session: wire.Session{Env: map[string]string{"HTTPS_PROXY": "http://p"}},
		Meta: wire.MetaData{InstanceID: "instance-1"},
		Network: wire.NetworkConfig{Ethernets: map[string]wire.Ethernet{
			"eth": {Nameservers: wire.Nameservers{Addresses: []string{"10.0.2.3", "evil\nsearch x", "fd00::3"}, Search: []string{"corp.example", "evil\nnameserver x"}}},
		}},
	}
	if change != nil {
		change(&seed)
	}
	return seed
}

const testCert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"

func TestApplyIdentity(t *testing.T) {
	root := newRoot(t, map[string]string{"etc/hostname": "image\n"})
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(root, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	env, err := Apply(root, seedOf(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"HTTPS_PROXY": "http://p"}, env); diff != "" {
		t.Errorf("environment (-want +got)\n%s", diff)
	}
	if got := read(t, root, "etc/hostname"); got != "box\n" {
		t.Errorf("hostname %q", got)
	}
	if got := read(t, root, "etc/resolv.conf"); got != "nameserver 10.0.2.3\nnameserver fd00::3\nsearch corp.example\n" || !regular(filepath.Join(root, "etc/resolv.conf")) {
		t.Errorf("resolv.conf %q", got)
	}
	if got := read(t, root, "etc/hosts"); !strings.Contains(got, "127.0.1.1 box\n") {
		t.Errorf("hosts %q", got)
	}
	if !exists(root, "etc/profile.d/smolvm.sh") {
		t.Error("no profile")
	}
}

func TestMachineIDIsTheInstances(t *testing.T) {
	if one := machineID("a"); !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(one) || one != machineID("a") || one == machineID("b") {
		t.Errorf("machine ids %q, %q, %q", one, machineID("a"), machineID("b"))
	}
}

func TestUnchangedFilesAreLeftAlone(t *testing.T) {
	root := newRoot(t, nil)
	path := filepath.Join(root, "etc/hosts")
	if _, err := Apply(root, seedOf(nil)); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(root, seedOf(nil)); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced: %v", err)
	}
}

func TestCertificates(t *testing.T) {
	root := newRoot(t, map[string]string{imageBundle: "image\n"})
	seed := seedOf(func(s *Seed) {
		s.User.CACertificates.Trusted = []string{testCert, strings.ReplaceAll(testCert, "AAAA", "BBBB") + "\n\n"}
	})
	for range 2 { // a second boot finds the bundle joined already
		env, err := Apply(root, seed)
		if err != nil {
			t.Fatal(err)
		}
		if env["SSL_CERT_FILE"] != "/"+runBundle || env["NODE_EXTRA_CA_CERTS"] != "/"+runExtra {
			t.Errorf("environment %v", env)
		}
	}
	want := "image\n" + addedMark + testCert + "\n" + strings.ReplaceAll(testCert, "AAAA", "BBBB") + "\n"
	for _, name := range []string{runBundle, imageBundle} {
		if diff := cmp.Diff(want, read(t, root, name)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	if got := read(t, root, runExtra); got != strings.TrimPrefix(want, "image\n"+addedMark) {
		t.Errorf("extra %q", got)
	}
	if got := read(t, root, localCerts, "smolvm-0.crt"); got != testCert+"\n" {
		t.Errorf("local certificate %q", got)
	}
}

// TestCertificateOfAStart comes with one start and is gone with the next.
func TestCertificateOfAStart(t *testing.T) {
	root := newRoot(t, map[string]string{imageBundle: "image\n"})
	file := filepath.Join(t.TempDir(), "authority.crt")
	second := strings.ReplaceAll(testCert, "AAAA", "BBBB")
	for _, c := range []struct {
		authority, want string
		local           int
	}{
		{testCert, "image\n" + addedMark + testCert + "\n", 1},
		{second + "\n", "image\n" + addedMark + second + "\n", 1},
		{"", "image\n", 0},
		{"", "image\n", 0},
	} {
		_ = os.Remove(file)
		if c.authority != "" {
			if err := os.WriteFile(file, []byte(c.authority), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		seed := seedOf(func(*Seed) {})
		if err := seed.Trust(file); err != nil {
			t.Fatal(err)
		}
		env, err := Apply(root, seed)
		if err != nil || (env["NODE_EXTRA_CA_CERTS"] != "") != (c.authority != "") {
			t.Fatalf("sessions get %v, %v", env, err)
		}
		if got := read(t, root, imageBundle); got != c.want {
			t.Errorf("the bundle is %q, want %q", got, c.want)
		}
		if local, _ := filepath.Glob(filepath.Join(root, localCerts, "*")); len(local) != c.local {
			t.Errorf("certificates: %v", local)
		}
	}
}

// A layer must never hold a host's certificates or anything else of the agent's.
func TestBuildWritesCertificatesToRunOnly(t *testing.T) {
	root := newRoot(t, map[string]string{imageBundle: "image\n"})
	env, err := Apply(root, seedOf(func(s *Seed) {
		s.Session.Build = true
		s.User.CACertificates.Trusted = []string{testCert}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if env["GIT_SSL_CAINFO"] == "" || !strings.Contains(read(t, root, runBundle), testCert) {
		t.Errorf("sessions cannot use the certificate: %v", env)
	}
	if got := read(t, root, imageBundle); got != "image\n" {
		t.Errorf("the image's bundle was changed: %q", got)
	}
	if exists(root, localCerts) || exists(root, "etc/profile.d") {
		t.Error("something was written outside of /run")
	}
}

func TestBadCertificate(t *testing.T) {
	for _, cert := range []string{"", "no PEM", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"} {
		_, err := Apply(newRoot(t, nil), seedOf(func(s *Seed) { s.User.CACertificates.Trusted = []string{cert} }))
		if err == nil {
			t.Errorf("%q accepted", cert)
		}
	}
}

func TestWriteFiles(t *testing.T) {
	root := newRoot(t, map[string]string{"etc/passwd": "", "opt/old": "old"})
	seed := seedOf(func(s *Seed) {
		s.User.WriteFiles = []wire.WriteFile{
			{Path: "/opt/deep/er/file", Content: "aGVsbG8=", Encoding: "b64", Permissions: "0600"},
			{Path: "/opt/old", Content: "new", Permissions: "4755"},
		}
	})
	if _, err := Apply(root, seed); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root, "opt/deep/er/file"); got != "hello" {
		t.Errorf("got %q", got)
	}
	info, err := os.Stat(filepath.Join(root, "opt/old"))
	if err != nil || info.Mode() != 0o755|fs.ModeSetuid || read(t, root, "opt/old") != "new" {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
}

func TestWriteFilesRefuses(t *testing.T) {
	for name, file := range map[string]wire.WriteFile{
		"base64":      {Path: "/x", Content: "*", Encoding: "b64"},
		"encoding":    {Path: "/x", Encoding: "gzip"},
		"permissions": {Path: "/x", Permissions: "rwx"},
		"owner":       {Path: "/x", Owner: "nobody-here"},
		"group":       {Path: "/x", Owner: "root:nogroup-here"},
	} {
		_, err := Apply(newRoot(t, map[string]string{"etc/group": ""}), seedOf(func(s *Seed) { s.User.WriteFiles = []wire.WriteFile{file} }))
		if err == nil || !strings.Contains(err.Error(), "/x") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAccounts(t *testing.T) {
	root := newRoot(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nshort:x\nbad:x:many:1::/:/bin/sh\nagent:x:1000:1001:Agent:/home/agent:\n",
		"etc/group":  "root:x:0:\ndocker:x:999:other,agent\nagent:x:1001:\nusers:x:100:agent\n",
	})
	got, err := FindAccount(root, "agent")
	want := Account{Name: "agent", UID: 1000, GID: 1001, Groups: []uint32{999, 100}, Home: "/home/agent", Shell: "/bin/sh"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	for _, name := range []string{"short", "bad", "none", ""} {
		if got, err := FindAccount(root, name); !errors.Is(err, ErrNoAccount) {
			t.Errorf("%q: got %+v, %v", name, got, err)
		}
	}
	if got, err := FindAccount(t.TempDir(), "root"); err != nil || got.Home != "/root" {
		t.Errorf("root of an empty root: %+v, %v", got, err)
	}
}

func TestAddAccount(t *testing.T) {
	uid := os.Getuid()
	if uid == 0 {
		uid = 1000
	}
	root := newRoot(t, map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n", "etc/group": "root:x:0:\n"})
	user := wire.User{Name: "agent", UID: uid, Shell: "/bin/bash", Sudo: "ALL=(ALL) NOPASSWD:ALL"}
	seed := seedOf(func(s *Seed) { s.User.Users = []wire.User{{Name: "root"}, user} })
	for range 2 {
		if _, err := Apply(root, seed); err != nil {
			t.Fatal(err)
		}
	}
	got, err := FindAccount(root, "agent")
	if err != nil || got.UID != uint32(uid) || got.Shell != "/bin/bash" || !exists(root, "home/agent") {
		t.Errorf("got %+v, %v", got, err)
	}
	if n := strings.Count(read(t, root, "etc/passwd"), "agent:x:"); n != 1 {
		t.Errorf("the user is there %d times", n)
	}
	if got := read(t, root, "etc/sudoers.d/90-smolvm-agent"); got != "agent ALL=(ALL) NOPASSWD:ALL\n" {
		t.Errorf("sudo rule %q", got)
	}
	if !strings.HasPrefix(read(t, root, "etc/shadow"), "agent:!:") {
		t.Error("the password is not locked")
	}
}

func TestLinkPowerCommands(t *testing.T) {
	root := newRoot(t, map[string]string{"usr/sbin/halt": "the image's own"})
	for range 2 {
		if err := LinkPowerCommands(root, "/run/smolvm/bin", "/run/smolvm/agent", true); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.Readlink(filepath.Join(root, "run/smolvm/bin/reboot")); got != "/run/smolvm/agent" {
		t.Errorf("reboot leads to %q", got)
	}
	if got, _ := os.Readlink(filepath.Join(root, "usr/sbin/poweroff")); got != "/run/smolvm/bin/poweroff" {
		t.Errorf("poweroff leads to %q", got)
	}
	if got := read(t, root, "usr/sbin/halt"); got != "the image's own" {
		t.Errorf("halt was replaced: %q", got)
	}
}
