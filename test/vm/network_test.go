//go:build vm

package vm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPortsOfThisComputerAreClosed has a server on the host's loopback that a
// sandbox reaches only where it was told to.
func TestPortsOfThisComputerAreClosed(t *testing.T) {
	w := theWorld
	here := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "from the host") }))
	defer here.Close()
	_, port, _ := net.SplitHostPort(here.Listener.Addr().String())
	w.must(t, "claude", "start", "-n", "opened", "--no-mount", "--no-attach", "--allow-host", port)
	defer w.must(t, "delete", "--yes", "opened")
	ask := "curl -sS -m 20 http://host.smolvm.internal:" + port + "/"
	if got := w.must(t, "exec", "opened", "--", "sh", "-c", ask); got != "from the host" {
		t.Errorf("an opened port gave %q", got)
	}
	closed := w.run(t, nil, "exec", w.common(t), "--", "sh", "-c", ask+" 2>&1")
	if !strings.Contains(closed.stdout, "Could not connect") || strings.Contains(closed.stdout, "from the host") {
		t.Errorf("a port that nobody opened gave %q", closed.stdout)
	}
	if info := w.must(t, "info", "opened"); !strings.Contains(info, "host.smolvm.internal:"+port) {
		t.Errorf("info does not show the port:\n%s", info)
	}
}

// TestInstallersWorkOnTheOpenNetwork uses the real registries, and so needs a
// network that reaches them. For git it has a server of its own on this computer, as
// networks that reach registries need not reach a forge.
func TestInstallersWorkOnTheOpenNetwork(t *testing.T) {
	needLong(t)
	w := theWorld
	name, place := w.common(t), strings.Replace(gitServer(t), "127.0.0.1", "host.smolvm.internal", 1)
	w.must(t, "network", name, "allow", place)
	defer w.must(t, "network", name, "deny", place)
	for _, command := range []string{
		"cd /tmp && npm install --no-audit --no-fund is-odd && node -e 'require(\"is-odd\")'",
		"cd /tmp && uv venv -q --seed v && uv pip install -q --python v/bin/python six && v/bin/python -c 'import six'",
		"cd /tmp && v/bin/python -m pip install -q --disable-pip-version-check idna && v/bin/python -c 'import idna'",
		"sudo apt-get -q update && sudo apt-get -qy install hello && hello",
		"cd /tmp && git clone -q http://" + place + "/project.git && cd project && test \"$(cat file)\" = content",
		"cd /tmp/project && git checkout -qb work && date >file && git -c user.name=a -c user.email=a@b commit -qam second && " +
			"git push -q origin work && test \"$(git ls-remote origin work | cut -f 1)\" = \"$(git rev-parse HEAD)\"",
	} {
		if r := w.run(t, nil, "exec", name, "--", "sh", "-c", command); r.status != 0 {
			t.Errorf("%s: status %d\n%s%s", command, r.status, r.stdout, r.stderr)
		}
	}
}

// gitServer serves a repository that may be pushed to, as forges do, by git's own
// program for that, and gives its address.
func gitServer(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "sh", "-ec", `cd "$0"
		git init -q -b main first && cd first && echo content >file && git add file
		git -c user.name=a -c user.email=a@b commit -qm first && cd ..
		git clone -q --bare first project.git && git -C project.git config http.receivepack true
		git --exec-path`, root).CombinedOutput()
	if err != nil {
		t.Fatalf("make a repository: %v\n%s", err, out)
	}
	server := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	})
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// TestTrafficIsRecorded has what a sandbox reached and what was refused it in its
// log, and every frame in a file that nobody else may read. It is held to its rate.
func TestTrafficIsRecorded(t *testing.T) {
	w := theWorld
	const large, rate, burst = 1 << 20, 512 << 10, 64 << 10
	here := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "from the host")
		if r.URL.Path == "/large" {
			_, _ = rw.Write(make([]byte, large))
		}
	}))
	defer here.Close()
	_, port, _ := net.SplitHostPort(here.Listener.Addr().String())
	file := filepath.Join(t.TempDir(), "traffic.pcap")
	w.must(t, "claude", "start", "-n", "recorded", "--no-mount", "--no-attach", "--network", "restricted", "--allow-host", port, "--record", file, "--network-rate", "512K")
	defer w.must(t, "delete", "--yes", "recorded")
	w.must(t, "exec", "recorded", "--", "sh", "-c", "curl -sS -m 20 http://host.smolvm.internal:"+port+"/recorded; curl -sSO --output-dir /tmp -m 60 http://host.smolvm.internal:"+port+"/large; curl -sS -m 20 http://10.0.2.2:1/; true")
	if again := w.run(t, nil, "start", "--no-attach", "--record", file+".2", "recorded"); again.status == 0 || !strings.Contains(again.stderr, "runs already") {
		t.Errorf("a running sandbox: status %d, %s", again.status, again.stderr)
	}
	w.must(t, "stop", "recorded")
	log := w.must(t, "logs", "--network", "recorded")
	verdicts, slow := map[string]string{}, false
	for line := range strings.Lines(log) {
		var e struct {
			To, Verdict string
			Received    int64 `json:"received_bytes"`
			Lasted      int64 `json:"milliseconds"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		verdicts[e.To] = fmt.Sprint(e.Verdict, " ", e.Received > 0)
		slow = slow || e.Received > large && e.Lasted >= (large-burst)*1000/rate
	}
	if kept := w.must(t, "network", "recorded"); !slow || !strings.Contains(kept, "at most 512.0 KiB a second each way") {
		t.Errorf("with a rate of 512 KiB a second the log is\n%s\nand network says %s", log, kept)
	}
	if verdicts["10.0.2.2:"+port] != "allowed true" || verdicts["10.0.2.2:1"] != "refused false" {
		t.Errorf("the log is\n%s", log)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file: %v, %v", info, err)
	}
	data, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(data, []byte{0xd4, 0xc3, 0xb2, 0xa1}) || !bytes.Contains(data, []byte("GET /recorded HTTP/1.1")) || !bytes.Contains(data, []byte("from the host")) {
		t.Errorf("%d bytes were recorded, %v", len(data), err)
	}
	if again := w.run(t, nil, "start", "--no-attach", "--record", file, "recorded"); again.status == 0 || !strings.Contains(again.stderr, "is there already") {
		t.Errorf("a file that is there: status %d, %s", again.status, again.stderr)
	}
}
