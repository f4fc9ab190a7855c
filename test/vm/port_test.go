//go:build vm

package vm_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// get fetches a page from this computer's side of a forward.
func get(address, path string) (string, error) {
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + address + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	return string(raw), err
}

// pages serves a folder of the sandbox on a port of its loopback.
func (w *world) pages(t *testing.T, name, bind string, port int) {
	t.Helper()
	w.must(t, "exec", name, "--", "sh", "-c", fmt.Sprintf("mkdir -p /tmp/www%[1]d; cd /tmp/www%[1]d; echo page %[1]d >page; head -c 4194304 /dev/zero >big; "+
		"nohup python3 -m http.server %[1]d --bind %[2]s >/dev/null 2>&1 &", port, bind))
}

// TestPorts forwards ports of this computer to servers on the guest's loopback, of
// both families, live and over a restart, and shows what else listens.
func TestPorts(t *testing.T) {
	w := theWorld
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	takenPort := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	refused := w.run(t, nil, "claude", "start", "-n", "ports", "--no-mount", "--no-attach", "-p", takenPort+":8123")
	if refused.status == 0 || !strings.Contains(refused.stderr, "is taken by ") || w.state(t, "ports") != "" {
		t.Errorf("a taken port: status %d, %s", refused.status, refused.stderr)
	}
	name := "ports"
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1", "-p", "0:8123")
	t.Cleanup(func() { w.remove(name) })
	w.pages(t, name, "127.0.0.1", 8123)
	w.pages(t, name, "::1", 8124)
	six := strings.TrimSpace(w.must(t, "port", "add", name, "0:8124"))
	first := firstForward(t, w.must(t, "port", "list", name))
	for address, want := range map[string]string{first: "page 8123\n", six: "page 8124\n", strings.Replace(first, "127.0.0.1", "[::1]", 1): "page 8123\n"} {
		eventually(t, "the page behind "+address, func() bool {
			got, err := get(address, "/page")
			return err == nil && got == want
		})
	}
	begun := time.Now()
	if big, err := get(first, "/big"); err != nil || len(big) != 4<<20 {
		t.Errorf("a large page: %d bytes, %v", len(big), err)
	}
	t.Logf("4 MiB through a forward in %v", time.Since(begun))
	w.must(t, "exec", name, "--", "sh", "-c", "nohup python3 -m http.server 8125 --bind 127.0.0.1 >/dev/null 2>&1 &")
	eventually(t, "info shows an undeclared port", func() bool {
		return strings.Contains(w.must(t, "info", name), "port      8125 in the sandbox (python3), not forwarded\n")
	})
	if info := w.must(t, "info", name); !strings.Contains(info, first+" leads to 8123 in the sandbox (python3)\n") {
		t.Errorf("info does not show the forward:\n%s", info)
	}
	w.must(t, "stop", name)
	if _, err := get(first, "/page"); err == nil {
		t.Error("a stopped sandbox answers")
	}
	w.must(t, "start", "--no-attach", name)
	w.pages(t, name, "127.0.0.1", 8123)
	eventually(t, "the same address leads there after a restart", func() bool {
		got, err := get(first, "/page")
		return err == nil && got == "page 8123\n"
	})
	w.must(t, "port", "remove", name, "8123")
	if _, err := get(first, "/page"); err == nil {
		t.Error("a removed forward answers")
	}
}

// firstForward is the address in the first row of port list.
func firstForward(t *testing.T, table string) string {
	t.Helper()
	lines := strings.Split(table, "\n")
	if len(lines) < 2 || len(strings.Fields(lines[1])) < 4 {
		t.Fatalf("port list says %q", table)
	}
	return strings.Fields(lines[1])[1]
}
