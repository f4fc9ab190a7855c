package release

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// freeAddress is one of this computer at which nothing listens yet.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// serve starts a server of Debian's and waits until it listens; the test is
// skipped where it is missing.
func serve(t *testing.T, pkg, address string, command ...string) {
	t.Helper()
	program, err := exec.LookPath(command[0])
	if err != nil {
		t.Skipf("%s is missing: install the package %s", command[0], pkg)
	}
	var log bytes.Buffer
	c := exec.Command(program, command[1:]...)
	c.Stdout, c.Stderr = &log, &log
	check(t, c.Start())
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	t.Cleanup(func() { _ = c.Process.Signal(os.Interrupt); <-ended })
	for range 500 {
		select {
		case <-ended:
			t.Fatalf("%s ended:\n%s", command[0], log.Bytes())
		case <-time.After(10 * time.Millisecond): // a server tells nobody that it listens
		}
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("%s does not listen", command[0])
}

// nginx serves a folder with a configuration as small as a publisher's.
func nginx(t *testing.T, folder string) string {
	t.Helper()
	program, user := "nginx", ""
	if _, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/nginx" // not in an ordinary user's PATH
	}
	if os.Geteuid() == 0 {
		user = "user root;" // temporary folders are this user's
	}
	address, dir := freeAddress(t), t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	check(t, os.WriteFile(config, fmt.Appendf(nil, `daemon off; %[4]s
pid %[1]s/pid;
error_log stderr warn;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server { listen %[2]s; root "%[3]s"; }
}
`, dir, address, folder, user), 0o600))
	serve(t, "nginx", address, program, "-c", config, "-e", "stderr")
	return "http://" + address + "/"
}

// registry is Debian's docker-registry.
func registry(t *testing.T) string {
	t.Helper()
	address, dir := freeAddress(t), t.TempDir()
	config := filepath.Join(dir, "registry.yml")
	check(t, os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
storage:
  filesystem:
    rootdirectory: %s
http:
  addr: %s
`, filepath.Join(dir, "data"), address), 0o600))
	serve(t, "docker-registry", address, "docker-registry", "serve", config)
	return address
}

// TestMirrorServedByNginx: a mirror in a folder is a catalogue for everybody, and
// can be mirrored again from there.
func TestMirrorServedByNginx(t *testing.T) {
	h := newHome(t)
	first := filepath.Join(t.TempDir(), "first")
	_, err := h.mirror(t.Context(), h.catalogue(t, publisher(t).Address), first)
	check(t, err)
	c := newHome(t).catalogue(t, nginx(t, first))
	second := t.TempDir()
	m, err := h.mirror(t.Context(), c, second)
	check(t, err)
	if m.Copied != m.Bytes {
		t.Errorf("%+v", m)
	}
	isMirror(t, second, publisher(t).Dir)
}

// TestMirrorInARegistry: to Debian's registry, and from there.
func TestMirrorInARegistry(t *testing.T) {
	reference := "oci://" + registry(t) + "/agents/images:1"
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	m, err := h.mirror(t.Context(), c, reference)
	check(t, err)
	if m.Address != reference || m.Copied != m.Bytes {
		t.Errorf("%+v", m)
	}
	again, err := h.mirror(t.Context(), c, reference)
	if err != nil || again.Copied != 0 || again.Bytes != m.Bytes {
		t.Errorf("again: %+v, %v", again, err)
	}
	there := newHome(t).catalogue(t, reference)
	dir := t.TempDir()
	_, err = h.mirror(t.Context(), there, dir)
	check(t, err)
	isMirror(t, dir, publisher(t).Dir)

	old := *publisher(t)
	old.Dir = t.TempDir()
	check(t, os.CopyFS(old.Dir, os.DirFS(publisher(t).Dir)))
	old.Address, old.Manifest.Serial = filepath.Join(old.Dir, "manifest.json"), 6
	check(t, old.Publish())
	_, err = h.mirror(t.Context(), newHome(t).catalogue(t, old.Address), reference)
	if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "newer") {
		t.Errorf("an older one: %v", err)
	}
}

// Wrong bytes do not get into a registry, and the reason is told.
func TestWrongBytesAreNotPushed(t *testing.T) {
	reference := "oci://" + registry(t) + "/agents/images:1"
	h := newHome(t)
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS(publisher(t).Dir)))
	check(t, os.Chmod(filepath.Join(dir, base(t).Archive.File), 0o600))
	check(t, flip(filepath.Join(dir, base(t).Archive.File), 40_000))
	_, err := h.mirror(t.Context(), h.catalogue(t, dir), reference)
	if fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), base(t).Archive.File) {
		t.Errorf("%v", err)
	}
	if _, err := h.mirror(t.Context(), newHome(t).catalogue(t, publisher(t).Address), reference); err != nil {
		t.Error(err)
	}
}
