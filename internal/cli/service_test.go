package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

// withService gives the world's preset openclaw what only a service has.
func withService(w *fakeWorld) {
	all := fakePresets()
	for i := range all {
		if all[i].Name != "openclaw" {
			continue
		}
		all[i].Launch, all[i].Ask, all[i].Arguments = []string{"openclaw"}, []string{"openclaw", "--careful"}, []string{"tui"}
		all[i].Ports = []int{18789}
		all[i].Services = []preset.Service{
			{Name: "gateway", Run: []string{"gate"}, Ask: []string{"gate", "--careful"}, Port: 18789, Health: "/healthz", Restart: "on-failure"},
			{Name: "other", Run: []string{"other"}, User: "root"},
		}
	}
	w.app.AllPresets = func() ([]preset.Preset, error) { return all, nil }
	w.rows = append(w.rows, fakeRow("openclaw"))
}

func TestServicesReachTheSandbox(t *testing.T) {
	other := wire.Service{Name: "other", Run: []string{"other"}, User: "root"}
	gateway := wire.Service{Name: "gateway", Run: []string{"gate"}, Port: 18789, Health: "/healthz", Restart: wire.RestartOnFailure}
	careful := gateway
	careful.Run = []string{"gate", "--careful"}
	for line, c := range map[string]struct {
		launch   []string
		services []wire.Service
	}{
		"openclaw start":       {[]string{"openclaw"}, []wire.Service{gateway, other}},
		"openclaw start --ask": {[]string{"openclaw", "--careful"}, []wire.Service{careful, other}},
	} {
		w := newWorld(t)
		withService(w)
		w.app.Main(strings.Fields(line))
		if len(w.created) != 1 {
			t.Fatalf("%s: %q", line, &w.errs)
		}
		spec := w.created[0]
		if diff := cmp.Diff(c.services, spec.Services); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
		if !slices.Equal(spec.Launch, c.launch) || !slices.Equal(spec.Arguments, []string{"tui"}) || !slices.Equal(spec.Ports, []int{18789}) {
			t.Errorf("%s: launch %q, arguments %q, ports %v", line, spec.Launch, spec.Arguments, spec.Ports)
		}
	}
}

func TestAskNeedsAModeThatAsks(t *testing.T) {
	w := newWorld(t)
	w.run(t, "claude start --ask", want{
		status: 125, errs: "smolvm: preset claude-code has no mode in which its agent asks\n  hint: Leave --ask out.\n",
	})
}

// TestArguments: those of the user stand in place of the preset's, never beside them.
func TestArguments(t *testing.T) {
	for line, want := range map[string][]string{
		"attach box":           {"openclaw", "tui"},
		"attach box -- status": {"openclaw", "status"},
	} {
		w := newWorld(t)
		box := boxWithService(w)
		var got []string
		w.program = func(c supervise.Command, _ supervise.Streams) (int, error) {
			got = c.Start.Argv
			return 0, nil
		}
		w.app.Main(strings.Fields(line))
		if !slices.Equal(got, want) {
			t.Errorf("%s of %q ran %q, want %q", line, box.Launch, got, want)
		}
	}
}

// TestAgentWaitsForServices: those with a port, before its own program.
func TestAgentWaitsForServices(t *testing.T) {
	w := newWorld(t)
	boxWithService(w)
	if status := w.app.Main([]string{"attach", "box"}); status != 0 {
		t.Fatalf("status %d: %s", status, &w.errs)
	}
	want := []string{
		"exec box /usr/bin/flock --shared /run/smolvm/starting/gateway true user= dir=/ tty=false",
		"exec box openclaw tui user= dir= tty=false",
	}
	if diff := cmp.Diff(want, w.log); diff != "" {
		t.Error(diff)
	}
}

func TestAgentDoesNotWaitForever(t *testing.T) {
	w := newWorld(t)
	box := boxWithService(w)
	const limit = 10 * time.Millisecond
	w.program = func(supervise.Command, supervise.Streams) (int, error) {
		<-time.After(2 * limit)
		return 0, context.DeadlineExceeded
	}
	if err := w.app.awaitServicesFor(t.Context(), w, box, limit); err != nil {
		t.Fatal(err)
	}
	w.app.Progress().Close()
	if want := "The service gateway does not answer after 10ms; the agent starts without it."; !strings.Contains(w.errs.String(), want) {
		t.Errorf("it does not say %q but\n%s", want, &w.errs)
	}
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.app.awaitServicesFor(interrupted, w, box, limit); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func boxWithService(w *fakeWorld) sandbox.Status {
	w.add("box", sandbox.Running)
	box := w.boxes["box"]
	box.Launch, box.Arguments, box.Ports = []string{"openclaw"}, []string{"tui"}, []int{18789}
	box.Services = []wire.Service{{Name: "gateway", Run: []string{"openclaw", "gateway"}, Port: 18789}}
	w.boxes["box"] = box
	return box
}

func TestInfoShowsPortsAndServices(t *testing.T) {
	w := newWorld(t)
	boxWithService(w)
	w.app.Main([]string{"info", "box"})
	for _, line := range []string{"port      18789 in the sandbox, not forwarded\n", "service   gateway: openclaw gateway\n"} {
		if !strings.Contains(w.out.String(), line) {
			t.Errorf("info does not say %q:\n%s", line, &w.out)
		}
	}
}

func TestServiceLogs(t *testing.T) {
	for _, c := range []struct {
		line, script string
		status       int
	}{
		{"logs --service gateway box", printLog, 0},
		{"logs -f --service gateway box", tailLog, 0},
		{"logs --service gateway box", printLog, 3},
	} {
		w := newWorld(t)
		boxWithService(w)
		w.program = func(command supervise.Command, s supervise.Streams) (int, error) {
			if want := []string{"/bin/sh", "-c", c.script, "sh", "/var/log/smolvm/gateway.log"}; !slices.Equal(command.Start.Argv, want) {
				t.Errorf("%s ran %q", c.line, command.Start.Argv)
			}
			_, err := io.WriteString(s.Out, "a line\n")
			return c.status, err
		}
		status := w.app.Main(strings.Fields(c.line))
		if w.out.String() != "a line\n" || (status == 0) != (c.status == 0) {
			t.Errorf("%s: status %d, %q, %q", c.line, status, &w.out, &w.errs)
		}
	}
	w := newWorld(t)
	boxWithService(w)
	w.run(t, "logs --service gatway box", want{status: 3, errs: "smolvm: sandbox \"box\" has no service \"gatway\"\n  hint: It has gateway.\n"})
	w.add("plain", sandbox.Running)
	w.run(t, "logs --service x plain", want{status: 3, errs: "smolvm: sandbox \"plain\" has no service \"x\"\n  hint: It has none.\n"})
}
