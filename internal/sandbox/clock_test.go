package sandbox_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchClock is the clock of a bench's supervisors. A computer that slept is a wall
// clock that is ahead of where it would be, and the word of that.
type benchClock struct{ home string }

func (c benchClock) ahead() string { return filepath.Join(c.home, "ahead") }
func (c benchClock) bell() string  { return filepath.Join(c.home, "bell") }

func (c benchClock) now() time.Time {
	text, _ := os.ReadFile(c.ahead())
	ahead, _ := time.ParseDuration(string(text)) // none: it never slept
	return time.Now().Add(ahead)
}

func (c benchClock) jumps(ctx context.Context, tell func()) {
	bell, err := os.OpenFile(c.bell(), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		<-ctx.Done() // it never sleeps
		return
	}
	defer bell.Close()
	stop := context.AfterFunc(ctx, func() { _ = bell.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if _, err := bell.Read(make([]byte, 1)); err != nil {
			return
		}
		tell()
	}
}

// sleeps makes the bench's computer sleep and wake.
func (b *bench) sleeps(d time.Duration) {
	b.t.Helper()
	if err := os.WriteFile(benchClock{b.home}.ahead(), []byte(d.String()), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(benchClock{b.home}.bell(), []byte{1}, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// canSleep is called before the sandbox starts.
func (b *bench) canSleep() {
	b.t.Helper()
	if err := unix.Mkfifo(benchClock{b.home}.bell(), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// soonAhead waits until the guest's clock, in nanoseconds as the program tells it,
// is ahead of this test's by about d.
func (b *bench) soonAhead(name string, d time.Duration, argv ...string) {
	b.t.Helper()
	var off time.Duration
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text, _ := b.exec(name, "", argv...)
		nano, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			b.t.Fatal(err)
		}
		if off = time.Unix(0, nano).Sub(time.Now().Add(d)); off.Abs() < 2*time.Second {
			return
		}
	}
	b.t.Fatalf("5 s later the guest's clock is off by %v", off)
}

// TestGuestIsToldOfAClockThatJumped: a guest does not notice that its computer
// slept; its supervisor does, and tells it the time.
func TestGuestIsToldOfAClockThatJumped(t *testing.T) {
	b := newBench(t)
	b.canSleep()
	b.create("box")
	b.start("box")
	b.soonAhead("box", 0, "clock")
	b.sleeps(8 * time.Hour)
	b.soonAhead("box", 8*time.Hour, "clock")
	b.sleeps(-time.Hour) // and somebody may set it back
	b.soonAhead("box", -time.Hour, "clock")
}
