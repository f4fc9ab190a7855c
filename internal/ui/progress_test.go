package ui

import (
	"bytes"
	"encoding/json"
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
			"base: 15.0 MiB of 40.0 MiB, 37 %, 10.0 MiB/s, 2.5 s left\n" +
			"base: 30.0 MiB of 40.0 MiB, 75 %, 10.0 MiB/s, 1.0 s left\n" +
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
		for _, part := range []string{"[==========          ] 20.0 MiB of 40.0 MiB, 50 %, 10.0 MiB/s,", "boot claude-code 0.9 s\n"} {
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
		switch {
		case strings.HasPrefix(text, "\x1b[1A\r\x1b[J"):
			lines, text = append(lines[:len(lines)-2], ""), text[len("\x1b[1A\r\x1b[J"):]
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
	task := &task{begun: begun, total: 100 << 20}
	if task.advance(begun, 0); task.rate() != 0 {
		t.Errorf("a rate from one sample: %v", task.rate())
	}
	task.advance(begun.Add(time.Second), 50<<20)
	for s := 2; s <= 20; s++ { // then slowly
		task.advance(begun.Add(time.Duration(s)*time.Second), 50<<20+int64(s)<<20)
	}
	if rate := task.rate(); rate > 1.1*(1<<20) || rate < 0.9*(1<<20) {
		t.Errorf("the rate %v is not that of the last seconds", rate)
	}
	if task.advance(begun.Add(30*time.Second), 1); task.bytes != 70<<20 {
		t.Errorf("progress went back to %d", task.bytes)
	}
}
