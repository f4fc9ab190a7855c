package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
)

// A start says after what time the sandbox stops, from the settings as they are then.
func TestStartSaysWhenAnUnusedSandboxStops(t *testing.T) {
	yes := true
	for line, c := range map[string]struct {
		environ []string
		want    sandbox.StartOptions
	}{
		"start off":           {nil, sandbox.StartOptions{Idle: 10 * time.Minute}},
		"start off --keep":    {nil, sandbox.StartOptions{Idle: 10 * time.Minute, Keep: &yes}},
		"claude start":        {[]string{"SMOLVM_IDLE_STOP=90s"}, sandbox.StartOptions{Idle: 90 * time.Second}},
		"claude start --keep": {[]string{"SMOLVM_IDLE_STOP=never"}, sandbox.StartOptions{Keep: &yes}},
	} {
		w := newWorld(t)
		w.add("off", sandbox.Stopped)
		home := t.TempDir()
		w.app.rooms.Config = func() (config.Config, error) {
			return config.Load(append(c.environ, "SMOLVM_HOME="+home), "")
		}
		if status := w.app.Main(strings.Fields(line)); status != 0 {
			t.Errorf("%s: %s", line, &w.errs)
		}
		w.order.Timeout, w.order.Credentials = 0, nil
		if diff := cmp.Diff(c.want, w.order); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", line, diff)
		}
	}
}

// A sandbox that is just being stopped, as nobody used it, is started again.
func TestStartOfASandboxThatIsJustStopping(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	w.wakeErr = fault.New(fault.NotRunning, "", "it is just being stopped")
	w.run(t, "start box", want{out: "box\n", errs: "box is running", log: []string{"wake", "stop box 30s", "start box 2m0s"}})
}

// The supervisor of an earlier version stops nothing, and cannot be told to.
func TestKeepAndAnEarlierSupervisor(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	w.old = true
	w.run(t, "start box --keep", want{out: "box\n", errs: "box is running"})
	w = newWorld(t)
	w.add("box", sandbox.Running)
	w.old = true
	w.run(t, "start box --keep=false", want{status: 125, errs: "earlier smolvm"})
}

func TestIdleInWords(t *testing.T) {
	soon := fakeTime.Add(5 * time.Minute)
	for _, c := range []struct {
		idle        *supervise.Idle
		short, text string
	}{
		{&supervise.Idle{After: time.Hour, Stops: soon}, "in 5 minutes", "in 5 minutes, unless it is used"},
		{&supervise.Idle{After: 10 * time.Minute}, "", "10 min 0 s after it was used last"},
		{&supervise.Idle{Never: "its service gateway"}, "never", "never by itself: its service gateway"},
		{nil, "never", "never by itself"},
	} {
		if v := idleOf(c.idle); v.short(fakeTime) != c.short || v.text(fakeTime) != c.text {
			t.Errorf("%+v is %q and %q", c.idle, v.short(fakeTime), v.text(fakeTime))
		}
	}
}

func TestInfoOfASandboxThatNobodyUsed(t *testing.T) {
	w := newWorld(t)
	w.add("off", sandbox.Stopped)
	s := w.boxes["off"]
	s.StoppedIdle, s.Stopped = true, fakeTime.Add(-time.Hour)
	w.boxes["off"] = s
	w.app.Main([]string{"info", "off"})
	if !strings.Contains(w.out.String(), "1 hour ago, as nobody used it") {
		t.Errorf("info says\n%s", &w.out)
	}
}
