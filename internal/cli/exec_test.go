package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
)

func TestExecGivesInputTerminalAndVariables(t *testing.T) {
	type got struct {
		In  string
		TTY bool
		Env map[string]string
	}
	for _, c := range []struct {
		line string
		want got
	}{
		{"exec box cat", got{In: "typed"}},
		{"exec -i box cat", got{In: "typed"}},
		{"exec -i=false box cat", got{}},
		{"exec -t box cat", got{In: "typed\x04\x04", TTY: true}},
		{"exec -it box cat", got{In: "typed\x04\x04", TTY: true}},
		{"exec -T box cat", got{In: "typed"}},
		{"exec -e A=1 -e TOKEN -e A=2 box env", got{In: "typed", Env: map[string]string{"A": "2", "TOKEN": "secret"}}},
		{"exec --json -i=false box cat", got{}},
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		w.environ = map[string]string{"TOKEN": "secret"}
		w.app.Streams.In = strings.NewReader("typed")
		var have got
		w.program = func(c supervise.Command, s supervise.Streams) (int, error) {
			in, err := io.ReadAll(s.In)
			have = got{string(in), c.TTY, nil}
			if len(c.Env) > 0 {
				have.Env = c.Env
			}
			return 0, err
		}
		if status := w.app.Main(strings.Fields(c.line)); status != 0 {
			t.Errorf("%s: status %d: %s", c.line, status, &w.errs)
		}
		if diff := cmp.Diff(c.want, have); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.line, diff)
		}
	}
}

func TestExecRefusesWhatContradicts(t *testing.T) {
	for line, says := range map[string]string{
		"exec -t -T box ls":           "exclude each other",
		"exec -t --json box ls":       "--json captures",
		"exec -t -i=false box ls":     "Leave one of them out",
		"exec -e NOWHERE box ls":      "variable NOWHERE is not set here",
		"exec -e =x box ls":           "a variable has a name of 0 characters",
		"exec --env-file /no box env": "/no",
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		if status := w.app.Main(strings.Fields(line)); status != 125 || !strings.Contains(w.errs.String()+w.out.String(), says) || len(w.log) > 0 {
			t.Errorf("%s: status %d, did %v, said %s", line, status, w.log, &w.errs)
		}
	}
}

// What means nothing to smolvm is for the program, any number of times.
func TestOtherSignalsArePassedOn(t *testing.T) {
	names := []string{"USR1", "USR2", "ALRM", "CONT", "WINCH", "ABRT", "USR1", "HUP", "QUIT"}
	w := newWorld(t)
	w.add("box", sandbox.Running)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.program = func(_ supervise.Command, s supervise.Streams) (int, error) {
		for _, sig := range []os.Signal{
			syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGABRT, syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGQUIT,
		} {
			signals <- sig
		}
		for _, name := range names {
			if got := <-s.Signals; got != name {
				return 0, fmt.Errorf("got %s, want %s", got, name)
			}
		}
		return 7, nil
	}
	w.run(t, "exec box sleep 9", want{status: 7, log: []string{"exec box sleep 9 user=agent dir= tty=false"}})
}

// Without a program they do nothing: a command is not ended by them.
func TestOtherSignalsEndNoCommand(t *testing.T) {
	w := newWorld(t)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.add("box", sandbox.Stopped)
	w.started = func(ctx context.Context) {
		for range 5 {
			signals <- syscall.SIGUSR1
		}
		if ctx.Err() != nil {
			t.Error("SIGUSR1 ended the start")
		}
	}
	w.run(t, "start box", want{out: "box\n", log: []string{"start box 2m0s"}, errs: "box is running"})
}
