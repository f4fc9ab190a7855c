//go:build vm

package vm_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNetworkChangesWhileItRuns opens a port of this computer's loopback to a
// sandbox that runs, and closes it again with a connection open.
func TestNetworkChangesWhileItRuns(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "reaching")
	leave := make(chan struct{})
	defer close(leave)
	here := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(rw, "from the host")
		if r.URL.Path == "/held" {
			rw.(http.Flusher).Flush()
			select {
			case <-leave:
			case <-r.Context().Done():
			}
		}
	}))
	defer here.Close()
	_, port, _ := net.SplitHostPort(here.Listener.Addr().String())
	place := "host.smolvm.internal:" + port
	reach := func() string {
		return w.run(t, nil, "exec", name, "--", "curl", "-sS", "-m", "20", "http://"+place+"/").stdout
	}
	if got := reach(); got != "" {
		t.Fatalf("a port that nobody opened gave %q", got)
	}
	if got := w.must(t, "network", name); !strings.Contains(got, place) {
		t.Errorf("network does not show what was refused:\n%s", got)
	}
	w.must(t, "network", name, "allow", place)
	if got := reach(); got != "from the host\n" {
		t.Errorf("an allowed port gave %q", got)
	}
	held := w.command(t.Context(), "exec", name, "--", "curl", "-sSN", "http://"+place+"/held")
	out, err := held.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "from the host\n" {
		t.Fatalf("the held connection gave %q, %v", line, err)
	}
	w.must(t, "network", name, "deny", place)
	held.Wait() // the connection ends: the server never closes it
	if held.ProcessState.ExitCode() == 0 {
		t.Error("a connection that is not allowed any more ended well")
	}
	if got := reach(); got != "" {
		t.Errorf("a denied port gave %q", got)
	}
	w.must(t, "stop", name)
	w.must(t, "start", name, "--no-attach")
	if got := reach(); got != "" {
		t.Errorf("after a restart the denied port gave %q", got)
	}
}

// TestStopAndDeleteAll has a world of its own: it ends all that is in it.
func TestStopAndDeleteAll(t *testing.T) {
	w := theWorld.fresh(t, theWorld.address)
	all := []string{"one", "two"}
	for _, name := range all {
		w.must(t, launch(name)...)
	}
	if got := dataOf[struct{ Stopped []string }](t, w.must(t, "stop", "--all", "--json")).Stopped; !slices.Equal(got, all) {
		t.Errorf("stopped %q, want %q", got, all)
	}
	if left := w.processes("supervise"); len(left) > 0 {
		t.Errorf("after stop --all there are %v", left)
	}
	for _, name := range all {
		if got := w.state(t, name); got != "stopped" {
			t.Errorf("%s is %s", name, got)
		}
	}
	w.must(t, "start", "two", "--no-attach")
	if r := w.run(t, nil, "delete", "--all"); r.status == 0 || w.state(t, "one") == "" {
		t.Errorf("delete --all without --yes and a terminal: %+v", r)
	}
	if got := dataOf[struct{ Deleted []string }](t, w.must(t, "delete", "--all", "--yes", "--json")).Deleted; !slices.Equal(got, all) {
		t.Errorf("deleted %q, want %q", got, all)
	}
	if left, _ := filepath.Glob(filepath.Join(w.home, "sandboxes", "[a-z]*")); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if left := w.processes(""); len(left) > 0 {
		t.Errorf("after delete --all there are %v", left)
	}
}

// dataOf is what an envelope has.
func dataOf[T any](t *testing.T, text string) T {
	t.Helper()
	var envelope struct{ Data T }
	if err := json.Unmarshal([]byte(text), &envelope); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return envelope.Data
}

func TestLogsOfTheSupervisor(t *testing.T) {
	w := theWorld
	name := w.common(t)
	if got := w.must(t, "logs", "--supervisor", name); !strings.Contains(got, "machine started") {
		t.Errorf("the supervisor's log: %q", got)
	}
	type log struct {
		Log   string
		Lines []string
	}
	console := dataOf[log](t, w.must(t, "logs", "--json", name))
	if console.Log != "console" || !slices.ContainsFunc(console.Lines, func(line string) bool { return strings.Contains(line, "ready after") }) {
		t.Errorf("the console in JSON: %+v", console)
	}
	if r := w.run(t, nil, "logs", "--service", "none", name); r.status != 3 || !strings.Contains(r.stderr, "It has none") {
		t.Errorf("the log of no service: %+v", r)
	}
}

// TestBugReportOfARealSandbox: what a sandbox was given is not in it.
func TestBugReportOfARealSandbox(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	w := theWorld.as(t, t.TempDir(), "MY_API_KEY="+secret)
	name := w.sandbox(t, "reported")
	w.must(t, "env", "set", name, "MY_API_KEY", "MODE=plain-value-of-mine")
	w.must(t, "exec", "-u", "root", name, "--", "sh", "-c", "echo the key is "+secret+" >/dev/console")
	path := filepath.Join(t.TempDir(), "report.txt")
	w.must(t, "bug-report", "--yes", "-o", path, name)
	text := read(t, path)
	for _, part := range []string{"==== version ====", "==== doctor ====", `"name": "reported"`, "machine started", "ready after"} {
		if !strings.Contains(text, part) {
			t.Errorf("the report lacks %q", part)
		}
	}
	for _, hidden := range []string{secret, "plain-value-of-mine", "PRIVATE KEY"} {
		if strings.Contains(text, hidden) {
			t.Errorf("the report has %q", hidden)
		}
	}
}
