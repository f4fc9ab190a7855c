package acquire

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/unpack"
	"github.com/smolvm/smolvm/test/faulty"
)

// A download whose frames are as large and as badly packed as they come takes
// less than 256 MiB, several assets at a time.
func TestMemoryIsBounded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a process's peak without that of who started it")
	}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector takes memory of its own")
	}
	w := newWorld(t)
	own := *w.made // the folder is shared with other tests: only its manifest must not be
	own.Dir = t.TempDir()
	own.Address = filepath.Join(own.Dir, "manifest.json")
	w.made = &own
	row := w.made.Manifest.Rows[0]
	row.Layers = nil
	for i, name := range []string{"base", "claude-code"} {
		data := make([]byte, 12*unpack.FrameSize)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		asset, err := w.made.Add(t.Context(), name, data)
		must(t, err)
		row.Layers = append(row.Layers, asset)
		w.want = map[string][]byte{}
	}
	for _, asset := range []manifest.Asset{row.Kernel.Image, *row.Kernel.Modules} {
		for _, file := range []string{asset.Archive.File, asset.Index.File} {
			shared, err := published()
			must(t, err)
			copyFile(t, filepath.Join(shared.Dir, file), filepath.Join(own.Dir, file))
		}
	}
	w.made.Manifest.Rows = []manifest.Row{row}
	must(t, w.made.Publish())
	w.server = faulty.New(own.Dir)
	url, stop := w.server.Listen()
	defer stop()
	w.url = url
	cmd, lines := w.child(t)
	until(t, lines, "succeeded")
	var kib int64
	_, err := fmt.Sscanf(until(t, lines, "VmHWM"), "VmHWM: %d kB", &kib)
	must(t, err)
	must(t, cmd.Wait())
	t.Logf("%d MiB", kib>>10)
	if kib >= 256<<10 {
		t.Errorf("the process took %d MiB", kib>>10)
	}
}

// Buffers never take more than their bound, and whoever waits for one ends with
// its context.
func TestBuffersAreBounded(t *testing.T) {
	t.Parallel()
	b := newBuffers(10 * grain)
	first, err := b.get(t.Context(), 6*grain)
	must(t, err)
	got := make(chan []byte)
	go func() {
		second, err := b.get(t.Context(), 5*grain)
		if err != nil {
			t.Error(err)
		}
		got <- second
	}()
	select {
	case <-got:
		t.Fatal("more than the bound")
	case <-time.After(50 * time.Millisecond):
	}
	b.put(first)
	if second := <-got; len(second) != 5*grain || b.total > b.limit {
		t.Errorf("%d bytes, %d in all", len(second), b.total)
	}
}

// The space that is needed is known, and compared with what there is, before the
// first byte of an archive is asked for: frames that are here already, of this
// version in a partial, need none; frames that are copied from another version
// need as much as those that are downloaded.
func TestSpaceIsCountedFirst(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	data := w.index(t, "base").DataSize()
	rest := w.index(t, "claude-code").DataSize() + w.index(t, "kernel").DataSize() + w.index(t, "modules").DataSize()
	w.needs(t, data+rest)

	index := w.index(t, "base")
	w.server.Set(w.asset("base").Archive.File, faulty.Fault{Stop: faulty.Cut, Within: faulty.Span{From: index.Frames[40].Offset}})
	if _, err := w.launch(t.Context()); err == nil {
		t.Fatal("not interrupted")
	}
	w.server.Set(w.asset("base").Archive.File)
	resumed := w.need(t)
	if resumed >= data+rest || resumed < data/3 {
		t.Errorf("%d bytes are needed to go on, %d for all", resumed, data+rest)
	}
	w.mustLaunch(t)

	next := append([]byte(nil), w.want["base"]...)
	copy(next, "changed")
	w.publish(t, "1.1.0", next)
	w.needs(t, w.index(t, "base").DataSize())
}

// archives counts the requests for archives.
type archives struct {
	*fetch.Mirrors
	opened atomic.Int64
}

// Open counts.
func (a *archives) Open(ctx context.Context, file string, span fetch.Span) (*fetch.Stream, error) {
	a.opened.Add(1)
	return a.Mirrors.Open(ctx, file, span)
}

func (w *world) needs(t *testing.T, want int64) {
	t.Helper()
	if got := w.need(t); got != want {
		t.Errorf("%d bytes are needed, want %d", got, want)
	}
}

// need is what a launch says that it needs when there is not enough: the free
// space is taken to be none, and nothing but manifest and indexes may be asked
// for.
func (w *world) need(t *testing.T) int64 {
	t.Helper()
	st, err := store.Open(w.home)
	must(t, err)
	source := impatient(0)
	plan, err := w.plan(t.Context(), source, st)
	must(t, err)
	places := &archives{Mirrors: source.Mirrors(plan.Places, w.events)}
	a := w.acquirer(st, places)
	var asked []int64
	a.reserve = func(need int64) error {
		asked = append(asked, need)
		if w.server.Requests(w.asset("base").Index.File) == 0 {
			return nil // the lower bound, before the indexes
		}
		return fault.New(fault.Storage, "hint", "%d bytes are needed", need)
	}
	if _, _, err = a.Run(t.Context(), plan, Options{}); fault.CodeOf(err) != fault.Storage {
		t.Fatalf("err = %v, asked for %d", err, asked)
	}
	if n := places.opened.Load(); n > 0 {
		t.Errorf("archives were asked for %d times", n)
	}
	return asked[len(asked)-1]
}

// The real check names both numbers.
func TestSpaceNamesBothNumbers(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	for i := range w.made.Manifest.Rows {
		for l := range w.made.Manifest.Rows[i].Layers {
			w.made.Manifest.Rows[i].Layers[l].Archive.Size = 256 << 30
			w.made.Manifest.Rows[i].Layers[l].Content.Size = 256 << 30
		}
	}
	must(t, w.made.Publish())
	_, err := w.launch(t.Context())
	if err == nil || fault.CodeOf(err) != fault.Storage || !regexp.MustCompile(`\d{12} bytes are needed, \d+ are free`).MatchString(err.Error()) {
		t.Errorf("err = %v", err)
	}
	if w.server.Requests(w.asset("base").Index.File) > 0 {
		t.Error("something was fetched")
	}
}

// A disk that is full in the middle: both numbers are named, what was complete
// stays, and with space the next run ends it.
func TestSpaceComesBack(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	cmd, lines := w.child(t, childLimit+"=2000000")
	line := until(t, lines, "failed")
	must(t, cmd.Wait())
	if !strings.Contains(line, "bytes are free") || !strings.Contains(line, "more bytes are needed") {
		t.Errorf("said: %s", line)
	}
	sent := w.server.Sent(w.asset("base").Archive.File)
	w.mustLaunch(t)
	if again := w.server.Sent(w.asset("base").Archive.File) - sent; again >= w.asset("base").Archive.Size {
		t.Errorf("%d bytes were fetched again", again)
	}
}
