package event

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// list is a sink that keeps everything.
type list []Event

func (l *list) Emit(e Event) { *l = append(*l, e) }

func TestSpan(t *testing.T) {
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := begun
	var got list
	done := Span(&got, func() time.Time { return clock }, Fetch, "base")
	clock = clock.Add(1500 * time.Millisecond)
	done(42)
	want := list{
		{Time: begun, Kind: Start, Stage: Fetch, Object: "base"},
		{Time: clock, Kind: Done, Stage: Fetch, Object: "base", Bytes: 42, Elapsed: 1500 * time.Millisecond},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDiscard(t *testing.T) {
	done := Span(Discard{}, time.Now, Boot, "one")
	done(0)
}

// TestJSON pins the form that --progress json documents.
func TestJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, e := range map[string]Event{
		`{"time":"2026-01-02T03:04:05Z","kind":"notice","text":"slow"}`: {Time: at, Kind: Notice, Text: "slow"},
		`{"time":"2026-01-02T03:04:05Z","kind":"done","stage":"fetch","object":"base","bytes":1,"total":2,"elapsed_ns":3}`: {
			Time: at, Kind: Done, Stage: Fetch, Object: "base", Bytes: 1, Total: 2, Elapsed: 3,
		},
	} {
		got, err := json.Marshal(e)
		if err != nil || string(got) != want {
			t.Errorf("%s, %v\nwant %s", got, err, want)
		}
	}
}
