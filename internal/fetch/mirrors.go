package fetch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
)

// Mirrors are the places that publish the same files, in the order in which
// they are asked. A place that failed comes after those that did not, so that a
// dead one costs one attempt. It is safe for use by several goroutines.
type Mirrors struct {
	source   *Source
	sink     event.Sink
	patience patience

	mu     sync.Mutex
	places []*place
	unsaid []event.Event // said when the lock is free
}

// Mirrors makes one of the addresses of the manifest at each place; files are
// looked for Beside them. Notices of what fails and what is done about it go to
// sink, which may be nil.
func (s *Source) Mirrors(addresses []string, sink event.Sink) *Mirrors {
	m := &Mirrors{source: s, sink: sink, patience: patient}
	if sink == nil {
		m.sink = event.Discard{}
	}
	for _, address := range addresses {
		m.places = append(m.places, newPlace(address))
	}
	return m
}

// Open starts to deliver a span of a file from the first place that can. It
// waits and tries again where that may help; its error is final and names every
// place and why it cannot.
//
// A consumer loops: Open what is still missing, read, and on an error of Read
// Open again; on wrong bytes Strike and Open again. It has to keep what it read:
// a download that begins again and again at the same byte is given up.
func (m *Mirrors) Open(ctx context.Context, file string, span Span) (*Stream, error) {
	for {
		p, wait, err := m.next(file)
		if err != nil {
			return nil, err
		}
		if wait > 0 {
			if err := m.source.wait(ctx, wait); err != nil {
				return nil, cancelled(p.at(file), err)
			}
		}
		stream, err := m.attempt(ctx, p, file, span)
		if err == nil {
			return stream, nil
		}
		if context.Cause(ctx) != nil {
			return nil, err
		}
	}
}

// Get reads a whole small file. Check refuses wrong bytes: that place is struck
// out and named, and the next is asked.
func (m *Mirrors) Get(ctx context.Context, file string, limit int64, check func([]byte) error) ([]byte, error) {
	for {
		stream, err := m.Open(ctx, file, Span{})
		if err != nil {
			return nil, err
		}
		data, err := m.read(stream, file, limit)
		switch {
		case err == nil:
			if check == nil {
				return data, nil
			}
			if err = check(data); err == nil {
				return data, nil
			}
			m.Strike(stream.Place, err)
		case context.Cause(ctx) != nil:
			return nil, err
		}
	}
}

// read reads a small file and keeps a place that sent something else out of it.
func (m *Mirrors) read(stream *Stream, file string, limit int64) ([]byte, error) {
	defer stream.Close()
	data, err := readAll(stream, limit)
	if err != nil && troubleOf(err).remedy == never {
		m.mu.Lock()
		defer m.unlock()
		for _, p := range m.places {
			if p.shown == stream.Place {
				m.giveUp(p, file, err)
			}
		}
	}
	return data, err
}

// Strike says that a place (Stream.Place) served wrong bytes: it is named in a
// warning and not asked again for anything by m. Left is whether others remain.
func (m *Mirrors) Strike(place string, reason error) (left bool) {
	m.mu.Lock()
	defer m.unlock()
	for _, p := range m.places {
		switch {
		case p.shown == place && p.struck == nil:
			p.struck = fmt.Errorf("%s served wrong bytes: %w", p.shown, reason)
			m.say(event.Warning, "%v: it is not asked again", p.struck)
		case p.struck == nil:
			left = true
		}
	}
	return left
}

// next is the place to ask for a file, and how long to wait before. Its error
// is why there is none.
func (m *Mirrors) next(file string) (*place, time.Duration, error) {
	m.mu.Lock()
	defer m.unlock()
	now := time.Now()
	p := m.best(file, now)
	if p == nil {
		return nil, 0, m.exhausted(file)
	}
	return p, p.ready.Sub(now), nil
}

func (m *Mirrors) best(file string, now time.Time) *place {
	var best *place
	for _, p := range m.places {
		if p.why(file, m.patience) == nil && (best == nil || p.before(best, now)) {
			best = p
		}
	}
	return best
}

// attempt asks a place once and keeps what is to be learned from it.
func (m *Mirrors) attempt(ctx context.Context, p *place, file string, span Span) (*Stream, error) {
	m.mu.Lock()
	q := question{address: p.at(file), span: span, known: p.states[file]}
	if p.whole[file] {
		q.span = Span{}
	}
	seen := p.incidents
	m.mu.Unlock()

	stream, state, err := m.source.ask(ctx, q)
	m.mu.Lock()
	defer m.unlock()
	if err != nil {
		if context.Cause(ctx) == nil {
			m.learn(p, file, seen, err)
		}
		return nil, err
	}
	p.heard = true
	if !p.states[file].known {
		p.states[file] = state
	}
	if err := m.begun(p, start{file, span.From}); err != nil {
		stream.Close()
		return nil, err
	}
	stream.watcher = &delivery{m: m, place: p, file: file, seen: p.incidents}
	return stream, nil
}

// begun counts the downloads that begin at a byte. A reader that keeps what it
// got never asks for the same byte often, whatever the place does.
func (m *Mirrors) begun(p *place, s start) error {
	p.opened[s]++
	if p.opened[s] <= m.patience.sameByte {
		return nil
	}
	err := failed(never, p.at(s.file), "Use another mirror.", "the download ended %d times without getting past byte %d", m.patience.sameByte, s.from)
	m.giveUp(p, s.file, err)
	return err
}

// learn draws the consequence of an error. Seen is the number of incidents when
// the attempt began: attempts that fail together count once.
func (m *Mirrors) learn(p *place, file string, seen int, err error) {
	t := troubleOf(err)
	switch {
	case t.remedy == whole:
		p.whole[file] = true
	case t.remedy == never, t.after > m.patience.longest:
		m.giveUp(p, file, err)
	case p.incidents == seen:
		p.failed(err, time.Now(), func(n int) time.Duration {
			return max(backOff(n, m.source.jitter()), t.after)
		})
		m.announce(p, file, t)
	}
}

// giveUp keeps a place out of one file.
func (m *Mirrors) giveUp(p *place, file string, err error) {
	if p.without[file] != nil {
		return
	}
	p.without[file] = err
	if next := m.best(file, time.Now()); next != nil && len(m.places) > 1 {
		m.say(event.Notice, "%v: asking %s instead", err, next.shown)
	}
}

// announce says what is done about a failure.
func (m *Mirrors) announce(p *place, file string, t *trouble) {
	now := time.Now()
	next := m.best(file, now)
	switch {
	case next == nil: // the error will say it
	case next != p && !next.ready.After(now):
		m.say(event.Notice, "%s: %v: asking %s instead", p.shown, t, next.shown)
	default:
		m.say(event.Notice, "%s: %v: trying again in %v", p.shown, t, next.ready.Sub(now).Round(100*time.Millisecond))
	}
}

func (m *Mirrors) say(kind event.Kind, format string, args ...any) {
	m.unsaid = append(m.unsaid, event.Event{Time: time.Now(), Kind: kind, Stage: event.Fetch, Text: fmt.Sprintf(format, args...)})
}

// unlock frees the lock and says what happened under it: a sink may wait for
// somebody who waits for the lock.
func (m *Mirrors) unlock() {
	unsaid := m.unsaid
	m.unsaid = nil
	m.mu.Unlock()
	for _, e := range unsaid {
		m.sink.Emit(e)
	}
}

// exhausted is why no place delivers a file.
func (m *Mirrors) exhausted(file string) error {
	e := &nowhere{file: file}
	code := fault.Network
	for _, p := range m.places {
		if p.struck != nil {
			code = fault.Trust
		}
		e.each = append(e.each, p.why(file, m.patience))
	}
	return e.fault(code)
}
