package release

import (
	"fmt"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/manifest"
)

// progressEvery keeps the number of events low; the surface draws them at its
// own pace.
const progressEvery = 100 * time.Millisecond

// progress reports one operation's way on one object. Several goroutines may use it.
type progress struct {
	sink   event.Sink
	now    func() time.Time
	stage  event.Stage
	object string
	total  int64
	begun  time.Time

	mu   sync.Mutex
	last time.Time
}

func newProgress(o Options, stage event.Stage, object string, total int64) *progress {
	return &progress{sink: o.sink(), now: o.Now, stage: stage, object: object, total: total}
}

func (p *progress) start() {
	p.begun = p.now()
	p.last = p.begun
	p.sink.Emit(event.Event{Time: p.begun, Kind: event.Start, Stage: p.stage, Object: p.object, Total: p.total})
}

// at says how far it is; told is whether anybody was told, which is not every time.
func (p *progress) at(n int64) (told bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if now.Sub(p.last) < progressEvery {
		return false
	}
	p.last = now
	p.sink.Emit(event.Event{Time: now, Kind: event.Progress, Stage: p.stage, Object: p.object, Bytes: n, Total: p.total})
	return true
}

func (p *progress) done() {
	now := p.now()
	p.sink.Emit(event.Event{
		Time: now, Kind: event.Done, Stage: p.stage, Object: p.object, Bytes: p.total, Total: p.total, Elapsed: now.Sub(p.begun),
	})
}

func (p *progress) warn(format string, args ...any) {
	p.sink.Emit(event.Event{Time: p.now(), Kind: event.Warning, Stage: p.stage, Object: p.object, Text: fmt.Sprintf(format, args...)})
}

// title names images in one line.
func title(images []Image) string {
	if len(images) == 1 {
		return images[0].String()
	}
	return fmt.Sprintf("%d images", len(images))
}

func keysOf(assets []manifest.Asset) []string {
	keys := make([]string, len(assets))
	for i, asset := range assets {
		keys[i] = asset.Index.SHA256
	}
	return keys
}
