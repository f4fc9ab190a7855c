package cli

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/wire"
)

// All sandboxes that run are in each table, until they stop.
func TestTopOfMany(t *testing.T) {
	w := newWorld(t)
	for name, state := range map[string]string{"a": sandbox.Running, "b": sandbox.Running, "off": sandbox.Stopped} {
		w.add(name, state)
	}
	w.usage = func(_ context.Context, name string, take func(wire.Usage) bool) error {
		for i := range int64(map[string]int{"a": 3, "b": 5}[name]) {
			take(wire.Usage{UptimeMS: 1000 * i, CPUMS: 500 * i, CPUs: 1})
		}
		return fault.New(fault.NotRunning, "", "it stopped")
	}
	if status := w.app.Main([]string{"top", "--every", "1s"}); status != 0 {
		t.Fatalf("status %d: %s", status, &w.errs)
	}
	out := w.out.String()
	if a, b := strings.Count(out, "\na "), strings.Count(out, "\nb "); a != 2 || b != 4 || strings.Contains(out, "off") || !strings.Contains(out, "50%") {
		t.Errorf("a is shown %d times, b %d times:\n%s", a, b, out)
	}
}

func TestTopOfNothingAndWrongFlags(t *testing.T) {
	for line, c := range map[string]want{
		"top":                  {errs: "No sandbox is running."},
		"top off":              {status: fault.NotRunning.Exit(), errs: "smolvm start off"},
		"top --every 1ms":      {status: 2, errs: "--every 1ms is not possible"},
		"top --count -1":       {status: 2, errs: "--count -1 is too few"},
		"top --every 1s other": {status: 3, errs: "no sandbox"},
	} {
		w := newWorld(t)
		w.add("off", sandbox.Stopped)
		w.run(t, line, c)
	}
}

func TestTopEndsByCtrlC(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.usage = func(ctx context.Context, _ string, take func(wire.Usage) bool) error {
		take(wire.Usage{})
		take(wire.Usage{UptimeMS: 1000})
		signals <- syscall.SIGINT
		<-ctx.Done()
		return ctx.Err()
	}
	if status := w.app.Main([]string{"top"}); status != 130 || w.errs.Len() > 0 || !strings.Contains(w.out.String(), "box") {
		t.Errorf("status %d, said %q, showed %q", status, &w.errs, &w.out)
	}
}

func TestTopTellsWhatFails(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	w.usage = func(context.Context, string, func(wire.Usage) bool) error {
		return errors.New("its answer cannot be true")
	}
	if status := w.app.Main([]string{"top"}); status == 0 || !strings.Contains(w.errs.String(), "cannot be true") {
		t.Errorf("status %d, said %q", status, &w.errs)
	}
}
