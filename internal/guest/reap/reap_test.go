//go:build linux

package reap_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/reap"
)

// start runs a shell script under a reaper that lives as long as the test.
func start(t *testing.T, r *reap.Reaper, script string) *reap.Process {
	t.Helper()
	p, err := r.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func running(t *testing.T) *reap.Reaper {
	t.Helper()
	r := reap.New()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return r
}

func TestStatus(t *testing.T) {
	r := running(t)
	for script, want := range map[string]struct {
		code   int
		signal syscall.Signal
	}{
		"exit 0":      {0, 0},
		"exit 1":      {1, 0},
		"exit 255":    {255, 0},
		"kill -9 $$":  {137, syscall.SIGKILL},
		"kill -15 $$": {143, syscall.SIGTERM},
	} {
		status := start(t, r, script).Wait()
		if status.Code() != want.code || status.Signal() != want.signal {
			t.Errorf("%s: code %d, signal %v; want %d, %v", script, status.Code(), status.Signal(), want.code, want.signal)
		}
	}
}

func TestManyAtOnceKeepTheirStatuses(t *testing.T) {
	r := running(t)
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			p := start(t, r, "exit "+string(rune('0'+i%10)))
			if got := p.Wait().Code(); got != i%10 {
				t.Errorf("got status %d, want %d", got, i%10)
			}
		})
	}
	group.Wait()
}

// Orphans come to process 1; a sub-reaper stands in for it here.
func TestOrphansAreCollectedAndStatusesKept(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skipf("become sub-reaper: %v", err)
	}
	r := running(t)
	mark := filepath.Join(t.TempDir(), "mark")
	p := start(t, r, "(sleep 0.2; : >"+mark+") & exit 7")
	if got := p.Wait().Code(); got != 7 {
		t.Errorf("got status %d, want 7", got)
	}
	select {
	case <-r.Idle():
		t.Error("idle while the orphan runs")
	default:
	}
	select {
	case <-r.Idle():
	case <-time.After(5 * time.Second):
		t.Fatal("the orphan was not collected")
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the orphan did not finish: %v", err)
	}
	start(t, r, "exit 0").Wait()
}

func TestSignalAfterTheEnd(t *testing.T) {
	r := running(t)
	p := start(t, r, "exit 0")
	p.Wait()
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, reap.ErrEnded) {
		t.Errorf("got %v, want %v", err, reap.ErrEnded)
	}
	if err := p.SignalGroup(syscall.SIGTERM); !errors.Is(err, reap.ErrEnded) {
		t.Errorf("got %v, want %v", err, reap.ErrEnded)
	}
}

func TestSignalGroup(t *testing.T) {
	r := running(t)
	p := start(t, r, "sleep 100 & wait")
	if err := p.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := p.Wait().Signal(); got != syscall.SIGKILL {
		t.Errorf("got signal %v", got)
	}
}

func TestStartFails(t *testing.T) {
	r := running(t)
	_, err := r.Start("/nonesuch/program", []string{"x"}, &syscall.ProcAttr{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want not exist", err)
	}
	if got := start(t, r, "exit 3").Wait().Code(); got != 3 {
		t.Errorf("after a failed start: status %d, want 3", got)
	}
}
