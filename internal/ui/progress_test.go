package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/event"
)

// silentMost is how long a person watching a log may see nothing.
const silentMost = 2 * time.Second

// download emits a download of 40 MiB at 10 MiB/s in steps of a quarter second,
// none of them at the same instant as a tick.
func download(sink event.Sink) {
	const total = 40 << 20
	time.Sleep(130 * time.Millisecond)
	sink.Emit(event.Event{Kind: event.Start, Stage: event.Fetch, Object: "base", Total: total})
	for done := int64(total / 16); done <= total; done += total / 16 {
		time.Sleep(250 * time.Millisecond)
		sink.Emit(event.Event{Kind: event.Progress, Stage: event.Fetch, Object: "base", Bytes: done, Total: total})
	}
	sink.Emit(event.Event{Kind: event.Done, Stage: event.Fetch, Object: "base", Bytes: total, Elapsed: 4 * time.Second})
}

func TestPlainProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, errs := buffers("")
		p := NewProgress(s, Auto, time.Now)
		p.Emit(event.Event{Kind: event.Notice, Text: "two\nlines \x1b[2J"})
		p.Emit(event.Event{Kind: event.Start, Stage: event.Seed, Object: "x"})
		p.Emit(event.Event{Kind: event.Done, Stage: event.Seed, Object: "x"})
		download(p)
		p.Emit(event.Event{Kind: event.Warning, Text: "slow"})
		p.Close()
		p.Close()
		p.Emit(event.Event{Kind: event.Start, Stage: event.Boot, Object: "late"})
		p.Emit(event.Event{Kind: event.Notice, Text: "after"})
		want := "two lines \n" +
			"base: 40.0 MiB\n" +
			"base: 15.0 MiB of 40.0 MiB, 37 %, 10.0 MiB/s, 3 s left\n" +
			"base: 30.0 MiB of 40.0 MiB, 75 %, 10.0 MiB/s, 1 s left\n" +
			"base: verified, 40.0 MiB in 4.0 s\n" +
			"warning: slow\n" +
			"after\n"
		if diff := cmp.Diff(want, errs.String()); diff != "" {
			t.Error(diff)
		}
	})
}

// A stage that emits nothing must not look like a hang: something is written
// at least every two seconds.
func TestPlainProgressIsNeverSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &timedWriter{last: time.Now()}
		s := &Streams{Err: clock}
		p := NewProgress(s, Plain, time.Now)
		p.Emit(event.Event{Kind: event.Start, Stage: event.Boot, Object: "claude-code"})
		time.Sleep(21 * time.Second)
		p.Emit(event.Event{Kind: event.Done, Stage: event.Boot, Object: "claude-code"})
		p.Close()
		if clock.longest > silentMost-tickEvery { // a tick may be late by as much
			t.Errorf("silent for %v", clock.longest)
		}
		if !strings.HasSuffix(clock.String(), "boot claude-code: ready in 21.0 s\n") {
			t.Errorf("ended with %q", clock.String())
		}
	})
}

// timedWriter remembers the longest pause between two writes.
type timedWriter struct {
	bytes.Buffer
	last    time.Time
	longest time.Duration
}

func (w *timedWriter) Write(b []byte) (int, error) {
	w.longest = max(w.longest, time.Since(w.last))
	w.last = time.Now()
	return w.Buffer.Write(b)
}

// A quick stage that turns out to be slow is mentioned, and then its end too.
func TestQuickStageThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, errs := buffers("")
		p := NewProgress(s, Plain, time.Now)
		p.Emit(event.Event{Kind: event.Start, Stage: event.Resolve})
		time.Sleep(2100 * time.Millisecond)
		p.Emit(event.Event{Kind: event.Done, Stage: event.Resolve})
		p.Close()
		want := "catalogue: 1.5 s\ncatalogue: read in 2.1 s\n"
		if diff := cmp.Diff(want, errs.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBarProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, errs := buffers("")
		s.Moves = true
		p := NewProgress(s, Auto, time.Now)
		download(p)
		p.Emit(event.Event{Kind: event.Start, Stage: event.Boot, Object: "claude-code"})
		time.Sleep(time.Second)
		p.Close()
		screen := render(errs.String())
		want := []string{"base             verified, 40.0 MiB in 4.0 s", ""}
		if diff := cmp.Diff(want, screen); diff != "" {
			t.Error(diff)
		}
		for _, part := range []string{"[===   ] 20.0 MiB of 40.0 MiB, 50 %, 10.0 MiB/s,", "boot claude-code 0.9 s\n"} {
			if !strings.Contains(errs.String(), part) {
				t.Errorf("never showed %q", part)
			}
		}
		for _, line := range strings.Split(errs.String(), "\n") {
			if n := len(line) - len("\x1b[1A\r\x1b[J"); n >= defaultWidth {
				t.Errorf("a line of %d cells would wrap: %q", n, line)
			}
		}
	})
}

// render is the screen after the program wrote text: it knows the sequences
// that the bar uses.
func render(text string) []string {
	lines := []string{""}
	for text != "" {
		var up int
		switch n, _ := fmt.Sscanf(text, "\x1b[%dA\r\x1b[J", &up); {
		case n == 1:
			_, text, _ = strings.Cut(text, "\x1b[J")
			lines = append(lines[:len(lines)-1-up], "")
		case text[0] == '\n':
			lines, text = append(lines, ""), text[1:]
		default:
			lines[len(lines)-1] += text[:1]
			text = text[1:]
		}
	}
	return lines
}

func TestJSONProgress(t *testing.T) {
	s, _, errs := buffers("")
	p := NewProgress(s, JSON, time.Now)
	sent := event.Event{Kind: event.Progress, Stage: event.Fetch, Object: "base", Bytes: 5, Total: 10, Time: time.Unix(1, 0).UTC()}
	p.Emit(sent)
	p.Emit(event.Event{Kind: event.Notice, Text: "x\x1b[2J"})
	p.Close()
	var got event.Event
	lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || len(lines) != 2 {
		t.Fatalf("%v in %q", err, errs)
	}
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(lines[1], "\x1b") {
		t.Errorf("a raw escape in %q", lines[1])
	}
}

func TestRate(t *testing.T) {
	begun := time.Unix(0, 0)
	at := func(seconds int) time.Time { return begun.Add(time.Duration(seconds) * time.Second) }
	task := &task{begun: begun, total: 100 << 20}
	task.advance(begun, 0)
	if rate, _ := task.rate(begun); rate != 0 {
		t.Errorf("a rate from one sample: %v", rate)
	}
	task.advance(at(1), 50<<20)
	for s := 2; s <= 20; s++ { // then slowly
		task.advance(at(s), 50<<20+int64(s)<<20)
	}
	if rate, _ := task.rate(at(20)); rate > 1.1*(1<<20) || rate < 0.9*(1<<20) {
		t.Errorf("the rate %v is not that of the last seconds", rate)
	}
	if task.advance(at(22), 1); task.bytes != 70<<20 {
		t.Errorf("progress went back to %d", task.bytes)
	}
	if got, want := task.state(at(60)), "70.0 MiB of 100.0 MiB, 70 %, nothing new for 40.0 s"; got != want {
		t.Errorf("a stalled task says %q, want %q", got, want)
	}
	for s := 60; s < 70; s++ { // and goes on as before
		task.advance(at(s), task.bytes+2<<20)
	}
	if got, want := task.state(at(69)), "90.0 MiB of 100.0 MiB, 90 %, 2.0 MiB/s, 5 s left"; got != want {
		t.Errorf("after a pause it says %q, want %q", got, want)
	}
}

// What an earlier run left was not downloaded now: it is said, and no rate counts it.
func TestResumedTask(t *testing.T) {
	var b board
	begun := time.Unix(0, 0)
	started, _, _ := b.apply(begun, event.Event{Kind: event.Start, Stage: event.Fetch, Object: "base", Bytes: 80 << 20, Total: 100 << 20})
	if got, want := startText(started), "100.0 MiB, 80.0 MiB of it are here already"; got != want {
		t.Errorf("the start says %q, want %q", got, want)
	}
	for s := 1; s <= 3; s++ {
		b.apply(begun.Add(time.Duration(s)*time.Second), event.Event{Kind: event.Progress, Stage: event.Fetch, Object: "base", Bytes: 80<<20 + int64(s)<<20, Total: 100 << 20})
	}
	if got, want := started.state(begun.Add(3*time.Second)), "83.0 MiB of 100.0 MiB, 83 %, 1.0 MiB/s, 17 s left"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	if got, want := started.result(4*time.Second), "verified, 83.0 MiB (80.0 MiB were here) in 4.0 s"; got != want {
		t.Errorf("the end says %q, want %q", got, want)
	}
}

// A copy is told of once it takes long: what it did until then was not here before.
func TestCopyHadNothing(t *testing.T) {
	var b board
	begun := time.Unix(0, 0)
	b.apply(begun, event.Event{Kind: event.Start, Stage: event.Copy, Object: "big", Bytes: 11 << 20, Total: 300 << 20})
	done, _, _ := b.apply(begun.Add(4*time.Second), event.Event{Kind: event.Done, Stage: event.Copy, Object: "big", Bytes: 300 << 20})
	if got, want := done.result(4*time.Second), "copied, 300.0 MiB in 4.0 s"; got != want {
		t.Errorf("the end says %q, want %q", got, want)
	}
}

// Several assets have a line each, which fits the screen, and nothing is told of
// time left that nobody could wait for.
func TestSeveralTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, errs := buffers("")
		s.Moves = true
		p := NewProgress(s, Auto, time.Now)
		for _, name := range []string{"base", "claude-code"} {
			p.Emit(event.Event{Kind: event.Start, Stage: event.Fetch, Object: name, Total: 1 << 40})
		}
		p.Emit(event.Event{Kind: event.Start, Stage: event.Wait, Object: "kernel", Total: 4 << 20})
		time.Sleep(1500 * time.Millisecond)
		p.Emit(event.Event{Kind: event.Progress, Stage: event.Fetch, Object: "base", Bytes: 1 << 10})
		p.Emit(event.Event{Kind: event.Progress, Stage: event.Wait, Object: "kernel", Bytes: 2 << 20})
		time.Sleep(time.Second)
		screen := render(errs.String())
		want := []string{
			"base             [      ] 1.0 KiB of 1.0 TiB, 0 %, 682 B/s",
			"claude-code      [      ] 0 B of 1.0 TiB, 0 %",
			"wait kernel      [===   ] 2.0 MiB of 4.0 MiB, 50 %, 1.3 MiB/s, 2 s left",
			"",
		}
		if diff := cmp.Diff(want, screen); diff != "" {
			t.Error(diff)
		}
		p.Close()
	})
}

// A program that reads the events is told that the work goes on, too.
func TestJSONProgressIsNeverSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &timedWriter{last: time.Now()}
		p := NewProgress(&Streams{Err: clock}, JSON, time.Now)
		p.Emit(event.Event{Kind: event.Start, Stage: event.Verify, Object: "base", Total: 10})
		p.Emit(event.Event{Kind: event.Progress, Stage: event.Verify, Object: "base", Bytes: 3, Total: 10})
		time.Sleep(11 * time.Second)
		p.Close()
		if clock.longest > silentMost-tickEvery {
			t.Errorf("silent for %v", clock.longest)
		}
		lines := strings.Split(strings.TrimSpace(clock.String()), "\n")
		var last event.Event
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Bytes != 3 || last.Total != 10 {
			t.Errorf("the last event is %+v, %v", last, err)
		}
	})
}

// A download that stalls is told to do so soon, not to become slower and slower.
func TestStall(t *testing.T) {
	var b board
	begun := time.Unix(1000, 0)
	for i := range 5 {
		b.apply(begun.Add(time.Duration(i)*time.Second), event.Event{Kind: event.Progress, Stage: event.Fetch, Object: "x", Bytes: int64(i+1) << 20, Total: 90 << 20})
	}
	if text := b.tasks[0].state(begun.Add(7 * time.Second)); !strings.Contains(text, "nothing new for 3.0 s") || strings.Contains(text, "/s") {
		t.Errorf("said %q", text)
	}
}
