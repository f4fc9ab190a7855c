// Package event is what long work says while it runs: stages that start, move
// and end, and lines meant for the user. Rooms emit values, the surface renders
// them as a bar, as plain lines or as JSON. Nothing is kept on disk.
package event

import "time"

// Kind says what an event reports.
type Kind string

// The kinds. Progress events of one (Stage, Object) carry rising Bytes.
const (
	Start    Kind = "start"
	Progress Kind = "progress"
	Done     Kind = "done"
	Notice   Kind = "notice"  // one line the user should see
	Warning  Kind = "warning" // one line the user must see
)

// Stage is one step of the launch pipeline or of a build.
type Stage string

// The stages of a launch, in their order, those of the cache's own commands, and
// those of a build.
const (
	Resolve Stage = "resolve"
	Fetch   Stage = "fetch" // download, verify and unpack run as one stream per asset
	Store   Stage = "store"
	Scratch Stage = "scratch"
	Seed    Stage = "seed"
	Boot    Stage = "boot"
	Service Stage = "service" // until a service in the sandbox answers
	Attach  Stage = "attach"

	Wait   Stage = "wait"   // another process is at work on the object: its progress
	Verify Stage = "verify" // what is here is read again
	Prune  Stage = "prune"
	Save   Stage = "save"
	Load   Stage = "load"
	Mirror Stage = "mirror"
	Copy   Stage = "copy" // files, into a sandbox or out of it

	Packages Stage = "packages" // distribution packages downloaded and extracted
	Recipe   Stage = "recipe"   // one step of a recipe inside the sandbox
	Pack     Stage = "pack"     // the layer's file system is written
	Publish  Stage = "publish"  // frames, index, manifest
)

// Event is one report. The zero value of a field means that it does not apply.
type Event struct {
	Time    time.Time     `json:"time"`
	Kind    Kind          `json:"kind"`
	Stage   Stage         `json:"stage,omitempty"`
	Object  string        `json:"object,omitempty"` // asset, sandbox or step
	Bytes   int64         `json:"bytes,omitempty"`  // done so far; at Start what is here already, at Done the whole
	Total   int64         `json:"total,omitempty"`  // 0: unknown
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
	Text    string        `json:"text,omitempty"` // of a task: what it does at the moment
}

// Sink takes events. Emit may be called from several goroutines and must not block long.
type Sink interface{ Emit(Event) }

// Discard is a Sink that drops everything.
type Discard struct{}

// Emit drops the event.
func (Discard) Emit(Event) {}

// Span reports the start of one stage's work on an object and returns the
// function that reports its end with the bytes handled.
func Span(sink Sink, now func() time.Time, stage Stage, object string) (done func(bytes int64)) {
	begun := now()
	sink.Emit(Event{Time: begun, Kind: Start, Stage: stage, Object: object})
	return func(bytes int64) {
		t := now()
		sink.Emit(Event{Time: t, Kind: Done, Stage: stage, Object: object, Bytes: bytes, Elapsed: t.Sub(begun)})
	}
}
