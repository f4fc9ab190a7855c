package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// freeAddress is one of this computer at which nothing listens yet.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// run starts a server that is a program of Debian's and waits until it listens.
// The test is skipped where the program is missing.
func run(t *testing.T, pkg, address string, command ...string) {
	t.Helper()
	program, err := exec.LookPath(command[0])
	if err != nil {
		t.Skipf("%s is missing: install the package %s", command[0], pkg)
	}
	var log bytes.Buffer
	c := exec.CommandContext(context.Background(), program, command[1:]...)
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
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
func nginx(t *testing.T, folder, extra string) string {
	t.Helper()
	program := "nginx"
	if _, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/nginx" // not in an ordinary user's PATH
	}
	address, dir := freeAddress(t), t.TempDir()
	if os.Geteuid() == 0 { // its workers are nobody
		for _, d := range []string{folder, dir, filepath.Dir(folder), filepath.Dir(dir)} {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	config := filepath.Join(dir, "nginx.conf")
	write(t, config, fmt.Appendf(nil, `daemon off;
pid %[1]s/pid;
error_log stderr warn;
worker_processes 2;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  sendfile on;
  server { listen %[2]s; root %[3]s; %[4]s }
}
`, dir, address, folder, extra))
	run(t, "nginx", address, program, "-p", dir, "-e", "stderr", "-c", config)
	return "http://" + address + "/manifest.json"
}

func TestNginx(t *testing.T) {
	data := noise(8 << 20)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data"), data)
	m := New(Options{}).Mirrors([]string{nginx(t, dir, "")}, nil)
	get(t, m, "data", Span{}, data)

	var all sync.WaitGroup
	parts := make([][]byte, 8)
	for i := range parts {
		all.Go(func() {
			from := int64(i) << 20
			parts[i], _ = download(t.Context(), m, "data", Span{from, from + 1<<20}, make([]byte, 256<<10))
		})
	}
	all.Wait()
	if !bytes.Equal(bytes.Join(parts, nil), data) {
		t.Error("parallel spans differ from the file")
	}
	stream, err := m.Open(t.Context(), "data", Span{100, 200})
	if err != nil || stream.From != 100 || stream.Size != int64(len(data)) {
		t.Fatalf("%+v, %v", stream, err)
	}
	stream.Close()
	if _, err := m.Open(t.Context(), "data", Span{int64(len(data)) + 5, 0}); err == nil || !strings.Contains(err.Error(), "it has only") {
		t.Error(err)
	}
}

func TestNginxReplacesTheFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data"), noise(1<<20))
	m := New(Options{Wait: noWait}).Mirrors([]string{nginx(t, dir, "")}, nil)
	get(t, m, "data", Span{0, 100}, noise(100))
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "data"), later, later); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open(t.Context(), "data", Span{100, 200}); err == nil || !strings.Contains(err.Error(), "changed on the server") {
		t.Error(err)
	}
}

// TestNginxUnderLoad: a limit on connections and a rate are what public mirrors have.
func TestNginxUnderLoad(t *testing.T) {
	data := noise(1 << 20)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data"), data)
	// At most so many requests a second; the others are answered 503.
	zone := "} limit_req_zone $binary_remote_addr zone=r:1m rate=20r/s; server { listen unix:" + filepath.Join(dir, "s") + ";"
	notices := &told{}
	m := New(Options{}).Mirrors([]string{nginx(t, dir, "location / { limit_req zone=r; } "+zone)}, notices)
	var all sync.WaitGroup
	parts := make([][]byte, 8)
	for i := range parts {
		all.Go(func() {
			from := int64(i) << 17
			parts[i], _ = download(t.Context(), m, "data", Span{from, from + 1<<17}, make([]byte, 64<<10))
		})
	}
	all.Wait()
	if !bytes.Equal(bytes.Join(parts, nil), data) {
		t.Errorf("parallel spans differ from the file; told %s", notices.all())
	}
	if !strings.Contains(notices.all(), "503") {
		t.Error("the limit was never met")
	}
}

func TestPackedByNginx(t *testing.T) {
	dir := t.TempDir()
	page := bytes.Repeat([]byte("compressible "), 10_000)
	write(t, filepath.Join(dir, "data"), page)
	m := New(Options{}).Mirrors([]string{nginx(t, dir, "gzip on; gzip_types *; gzip_min_length 1;")}, nil)
	stream, err := m.Open(t.Context(), "data", Span{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if got, err := io.ReadAll(stream); err != nil || !bytes.Equal(got, page) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
