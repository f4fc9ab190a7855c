//go:build vm

package vm_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// pullPoints is how many kill points a small pull has in each tier.
const quickPullPoints, longPullPoints = 12, 300

// TestKilledPullsResume kills pulls of a small image, at a byte that the server
// sends or at a moment. The next run downloads the frames that are missing and
// nothing else, and leaves what an undisturbed pull leaves.
func TestKilledPullsResume(t *testing.T) {
	random, s := dice(t), newSite(t)
	w := s.world(t)
	begun := time.Now()
	w.must(t, s.pull()...)
	took, want, size := time.Since(begun), look(t, w.home), s.total()
	count := quickPullPoints
	if *long {
		count = longPullPoints
	}
	early := 0
	for range count {
		if s.killed(t, random, took, size, want) {
			early++
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d pulls of %d bytes were killed before they were done", early, count, size)
	if early < count/2 {
		t.Errorf("only %d of %d pulls were killed before they were done", early, count)
	}
}

// killed has one point. It tells whether the pull was not done yet.
func (s *site) killed(t *testing.T, random *rand.Rand, took time.Duration, size int64, want footprint) bool {
	t.Helper()
	w := s.world(t)
	defer os.RemoveAll(w.home)
	cmd := w.command(t.Context(), s.pull()...)
	started := make(chan struct{})
	stop := func() { <-started; _ = cmd.Process.Kill() }
	at, after := random.Int64N(size), moment(random, took)
	point := fmt.Sprintf("killed after %d of %d bytes", at, size)
	if random.IntN(3) == 0 {
		point = fmt.Sprintf("killed after %v of %v", after, took)
		timer := time.AfterFunc(after, stop)
		defer timer.Stop()
	} else {
		s.at(at, stop)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	_ = cmd.Wait()
	early := !cmd.ProcessState.Success()
	if len(w.listed(t)) > 0 && s.wrong(t, w) != "" {
		t.Errorf("%s: an image is listed: %s", point, s.wrong(t, w))
	}
	s.resumes(t, w, point, want)
	return early
}

// resumes runs the pull again.
func (s *site) resumes(t *testing.T, w *world, point string, want footprint) {
	t.Helper()
	missing, before := s.missing(t, w.home), s.total()
	if got := w.run(t, nil, s.pull()...); got.status != 0 {
		t.Fatalf("%s: the next run ended with %d: %s", point, got.status, got.stderr)
	}
	if sent := s.total() - before; sent != missing {
		t.Errorf("%s: the next run downloaded %d bytes, %d were missing", point, sent, missing)
	}
	if text := s.wrong(t, w); text != "" {
		t.Errorf("%s, after the next run: %s", point, text)
	}
	if text := look(t, w.home).difference(want); text != "" {
		t.Errorf("%s, after the next run:\n%s", point, text)
	}
}

// TestWinnerOfACrowdIsKilled has many processes pull the same image; the one
// that downloads is killed, and another one takes over where it ended.
func TestWinnerOfACrowdIsKilled(t *testing.T) {
	random, s := dice(t), newSite(t)
	many := 5
	if *long {
		many = 50
	}
	quiet := s.world(t)
	quiet.must(t, s.pull()...)
	size, want := s.total(), look(t, quiet.home)

	w, before := s.world(t), s.total()
	s.slow(size / int64(2+many/10)) // the download takes long enough for all to come
	winner := w.command(t.Context(), s.pull()...)
	first := make(chan struct{})
	s.at(1, func() { close(first) })
	if err := winner.Start(); err != nil {
		t.Fatal(err)
	}
	<-first
	s.at(size/5+random.Int64N(size/2), func() { _ = winner.Process.Kill() })
	crowd(t, w, many-1, func(int) []string { return s.pull() })
	if winner.Wait() == nil {
		t.Error("the first process was not killed")
	}
	lost := int64(4 * 2 * smallNoise) // what was on its way on four connections
	if sent := s.total() - before; sent < size || sent > size+lost {
		t.Errorf("%d bytes were sent for an image of %d", sent, size)
	}
	w.must(t, s.pull()...) // removes the lease of the dead, as any next run does
	if text := s.wrong(t, w) + look(t, w.home).difference(want); text != "" {
		t.Error(text)
	}
}
