package supervise

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/sshx/sshtest"
)

// patient is a guest that answers after a while, which may be changed.
type patient struct {
	mu    sync.Mutex
	after time.Duration
	asked int
}

func (p *patient) Ping() error {
	p.mu.Lock()
	p.asked++
	after := p.after
	p.mu.Unlock()
	time.Sleep(after)
	if after > 2*time.Minute {
		return errors.New("timeout")
	}
	return nil
}

func (p *patient) takes(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = d
}

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(func() []string { return []string{"Kernel panic", "reboot"} })
		guest := &patient{}
		ctx, stop := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { p.watch(ctx, guest) })
		defer watching.Wait()
		defer stop()

		time.Sleep(time.Hour)
		if guest.asked > 0 {
			t.Errorf("a guest that nobody uses was asked %d times", guest.asked)
		}
		using, leave, err := p.use(ctx)
		if err != nil {
			t.Fatal(err)
		}
		guest.takes(80 * time.Second) // busy
		time.Sleep(time.Hour)
		if using.Err() != nil || guest.asked == 0 {
			t.Fatalf("a busy guest is taken to hang: %v", context.Cause(using))
		}
		guest.takes(3 * time.Minute)
		begun := time.Now()
		<-using.Done()
		if took := time.Since(begun); took > 4*time.Minute {
			t.Errorf("it took %v to see that the guest hangs", took)
		}
		var hung *hungError
		if err := context.Cause(using); !errors.As(err, &hung) || fault.CodeOf(err) != fault.Boot || !strings.Contains(err.Error(), "Kernel panic\n  reboot") {
			t.Errorf("it ended with %v", err)
		}
		leave()
		if _, _, err := p.use(ctx); !errors.As(err, &hung) {
			t.Errorf("a guest that hangs is used: %v", err)
		}
		guest.takes(time.Second)
		time.Sleep(10 * time.Minute)
		if _, leave, err := p.use(ctx); err != nil {
			t.Errorf("a guest that answers again is not used: %v", err)
		} else {
			leave()
		}
	})
}

// TestGuestHangs ends what a client waits for, at once and with the reason, although
// the program's own streams stay open.
func TestGuestHangs(t *testing.T) {
	started, end := make(chan struct{}), make(chan struct{})
	r := newRoom(t, func(*sshtest.Process) sshx.Exit {
		close(started)
		<-end
		return sshx.Exit{}
	})
	defer close(end)
	go func() {
		<-started
		r.server.pulse.hang()
	}()
	c := r.dial()
	_, err := c.Exec(t.Context(), Command{}, Streams{})
	if fault.CodeOf(err) != fault.Boot || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("got %v", err)
	}
	if _, err := r.dial().Exec(t.Context(), Command{}, Streams{}); fault.CodeOf(err) != fault.Boot {
		t.Errorf("the next program: %v", err)
	}
}
