//go:build vm

package vm_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
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
// network that reaches them.
func TestInstallersWorkOnTheOpenNetwork(t *testing.T) {
	needLong(t)
	w := theWorld
	name := w.common(t)
	for _, command := range []string{
		"cd /tmp && npm install --no-audit --no-fund is-odd && node -e 'require(\"is-odd\")'",
		"cd /tmp && uv venv -q v && uv pip install -q --python v/bin/python six && v/bin/python -c 'import six'",
		"sudo apt-get update && apt-cache show hello",
	} {
		if r := w.run(t, nil, "exec", name, "--", "sh", "-c", command); r.status != 0 {
			t.Errorf("%s: status %d\n%s%s", command, r.status, r.stdout, r.stderr)
		}
	}
}
