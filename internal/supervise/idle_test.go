package supervise

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

const rest = 10 * time.Minute

// ended tells whether an idle has ended, once all that is due has happened.
func ended(i *idle) bool {
	synctest.Wait()
	select {
	case <-i.over:
		return true
	default:
		return false
	}
}

func pass(d time.Duration) {
	time.Sleep(d) // of the fake clock
	synctest.Wait()
}

// begun is an idle whose sandbox has started.
func begun() *idle {
	i := newIdle(rest, time.Now)
	i.leave()
	return i
}

func mustUse(t *testing.T, i *idle) func() {
	t.Helper()
	end, err := i.use()
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func TestIdleEndsAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := begun()
		if got := i.look(); got.After != rest || !got.Stops.Equal(time.Now().Add(rest)) {
			t.Errorf("it says %+v", got)
		}
		pass(rest - time.Second)
		if ended(i) {
			t.Fatal("it ended a second too early")
		}
		pass(time.Second)
		if !ended(i) {
			t.Fatal("it did not end")
		}
		if _, err := i.use(); fault.CodeOf(err) != fault.NotRunning {
			t.Errorf("a use after its end: %v", err)
		}
	})
}

func TestIdleBeginsWithTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdle(rest, time.Now)
		pass(5 * rest)
		if ended(i) || !i.look().Stops.IsZero() {
			t.Fatal("a boot counts as rest")
		}
	})
}

func TestUseStopsTheTimeAndBeginsItAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := begun()
		pass(rest - time.Second)
		one, two := mustUse(t, i), mustUse(t, i)
		pass(3 * rest)
		one()
		one() // more than once is once
		pass(3 * rest)
		if ended(i) || !i.look().Stops.IsZero() {
			t.Fatal("it ended, or says so, while it is used")
		}
		two()
		pass(rest - time.Second)
		if ended(i) {
			t.Fatal("its time did not begin anew")
		}
		pass(time.Second)
		if !ended(i) {
			t.Fatal("it did not end after its last use")
		}
	})
}

func TestKeptSessionsAreUses(t *testing.T) {
	status := 0
	synctest.Test(t, func(t *testing.T) {
		i := begun()
		i.keeps(runningSessions([]wire.KeptSession{{Name: "1"}, {Name: "2", Status: &status}}))
		pass(3 * rest)
		if ended(i) {
			t.Fatal("it ended while a session's program runs")
		}
		i.keeps(runningSessions([]wire.KeptSession{{Name: "2", Status: &status}}))
		pass(rest)
		if !ended(i) {
			t.Fatal("a session that has ended keeps it")
		}
	})
}

func TestForbiddenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := begun()
		i.forbid(neverIdle(record.Record{Keep: true}))
		pass(3 * rest)
		if got := i.look(); ended(i) || got.Never != "--keep" || !got.Stops.IsZero() {
			t.Fatalf("with --keep it says %+v", got)
		}
		i.forbid(neverIdle(record.Record{Services: []wire.Service{{Name: "gateway"}}}))
		pass(3 * rest)
		if got := i.look(); ended(i) || got.Never != "its service gateway" {
			t.Fatalf("with a service it says %+v", got)
		}
		i.forbid(neverIdle(record.Record{}))
		pass(rest)
		if !ended(i) {
			t.Fatal("it did not end once it may")
		}
	})
}

func TestNeverIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdle(0, time.Now)
		i.leave()
		pass(1000 * time.Hour)
		if got := i.look(); ended(i) || got != (Idle{}) {
			t.Fatalf("it says %+v", got)
		}
	})
}

func TestIdleSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := begun()
		pass(rest / 2)
		if left := time.Until(i.look().Stops); left != rest/2 {
			t.Errorf("half way %v are left", left)
		}
	})
}
