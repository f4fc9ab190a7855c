//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// nginx serves a folder on 127.0.0.1 as Debian's package would, and counts what
// it has sent.
type nginx struct {
	address string // ends in /
	log     string
	cmd     *exec.Cmd
	prefix  string
}

const nginxConfig = `%sworker_processes auto;
daemon off;
pid nginx.pid;
error_log error.log;
events { worker_connections 1024; }
http {
  log_format sent '$status $bytes_sent $uri';
  access_log access.log sent;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server { listen 127.0.0.1:%d; root "%s"; }
}
`

// startNginx serves folder. The caller stops it.
func startNginx(ctx context.Context, folder string) (*nginx, error) {
	root, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	prefix, err := os.MkdirTemp("", "smolvm-nginx-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	user := "" // only root may say whose workers these are
	if os.Geteuid() == 0 {
		user = "user root;\n"
	}
	config := filepath.Join(prefix, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, user, port, root), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("nginx", "-p", prefix, "-c", config)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin")
	if path, err := exec.LookPath("/usr/sbin/nginx"); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	n := &nginx{address: fmt.Sprintf("http://127.0.0.1:%d/", port), log: filepath.Join(prefix, "access.log"), cmd: cmd, prefix: prefix}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(prefix))
	}
	return n, n.await(ctx)
}

// freePort is a port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// await returns when the server answers.
func (n *nginx) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.address+"manifest.json", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err == nil {
			return answer.Body.Close()
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return errors.Join(fmt.Errorf("nginx does not answer: %w", err), n.stop())
		}
	}
}

func (n *nginx) stop() error {
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	_ = n.cmd.Wait()
	return os.RemoveAll(n.prefix)
}

// pids are the server's master and its workers.
func (n *nginx) pids() []int {
	pids := []int{n.cmd.Process.Pid}
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[0], pids[0]))
	for word := range strings.FieldsSeq(string(raw)) {
		if pid, err := strconv.Atoi(word); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sent is how many bytes went out since the server started, headers included,
// for files whose name has that ending; requests are logged when they end.
func (n *nginx) sent(ctx context.Context, ending string) (sum int64, err error) {
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return 0, err
	}
	file, err := os.Open(n.log)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 3 && strings.HasSuffix(words[2], ending) {
			bytes, err := strconv.ParseInt(words[1], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += bytes
		}
	}
	return sum, lines.Err()
}
