package script_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// nginxPath is where Debian's package puts it.
const nginxPath = "/usr/sbin/nginx"

// nginx FOLDER serves a folder with a real nginx on a free port of 127.0.0.1 until
// the script ends, and sets NGINX to its address.
func nginx(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: nginx FOLDER")
	}
	dir := filepath.Join(ts.Getenv("WORK"), "nginx")
	ts.Check(os.MkdirAll(dir, 0o755))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	address := listener.Addr().String()
	ts.Check(listener.Close())
	config := filepath.Join(dir, "nginx.conf")
	ts.Check(os.WriteFile(config, []byte(nginxConfig(dir, address, ts.MkAbs(args[0]))), 0o644))
	server := exec.Command(nginxPath, "-p", dir, "-c", config, "-e", filepath.Join(dir, "error.log"))
	ts.Check(server.Start())
	ts.Defer(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			ts.Check(conn.Close())
			break
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nginx does not answer: %v", err)
		}
	}
	ts.Setenv("NGINX", "http://"+address)
}

// nginxConfig is of a server in the foreground that an ordinary user can run.
func nginxConfig(dir, address, root string) string {
	return fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events {}
http {
  access_log %[1]s/access.log;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s;
    root %[3]s;
  }
}
`, dir, address, root)
}
