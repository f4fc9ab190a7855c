package faulty

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

func (s *Server) send(w http.ResponseWriter, r *http.Request, file string, fault Fault, a answer) {
	after := min(fault.After, a.size)
	if fault.Stop == Hang { // a client that has everything asks for more on this connection, and then its end is not noticed
		after = min(after, max(a.size-1, 0))
	}
	if fault.Stop == Shorten {
		a.body, a.size = io.LimitReader(a.body, after), after
	}
	set(w.Header(), "Content-Type", "application/octet-stream")
	if !fault.Chunked {
		set(w.Header(), "Content-Length", strconv.FormatInt(a.size, 10))
	}
	if fault.Status != 0 {
		a.status = fault.Status
	}
	w.WriteHeader(a.status)
	out := s.outlet(w, r, file)
	if fault.Stop == Never || fault.Stop == Shorten {
		if fault.Chunked { // or net/http tells the length of a short body after all
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.Copy(out, a.body)
		return
	}
	_, _ = io.CopyN(out, a.body, after)
	_ = http.NewResponseController(w).Flush()
	s.rest(out, w, r, fault.Stop, a.body)
}

// outlet counts what goes out and holds it to the link's rate.
func (s *Server) outlet(w http.ResponseWriter, r *http.Request, file string) io.Writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return outlet{w, r.Context(), s.link, func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent[file] += int64(n)
	}}
}

func (s *Server) rest(out io.Writer, w http.ResponseWriter, r *http.Request, stop Stop, body io.Reader) {
	switch stop {
	case Cut:
		panic(http.ErrAbortHandler)
	case Hang:
		<-r.Context().Done()
	case Pause:
		if s.wait(r) {
			_, _ = io.Copy(out, body)
		}
	case Slow:
		for s.wait(r) {
			if _, err := io.CopyN(out, body, 1); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// wait returns false when the client has gone.
func (s *Server) wait(r *http.Request) bool {
	select {
	case <-s.tick:
		return true
	case <-r.Context().Done():
		return false
	}
}

type outlet struct {
	w     io.Writer
	ctx   context.Context
	link  *link
	count func(n int)
}

func (o outlet) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		part := p[done:]
		if o.link != nil {
			part = part[:min(len(part), o.link.piece())]
			if err := o.link.take(o.ctx, len(part)); err != nil {
				return done, err
			}
		}
		n, err := o.w.Write(part)
		o.count(n)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// link is a line of a fixed rate that all connections share.
type link struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	free time.Time // when all that was taken so far has gone through
}

// burst is how far ahead of its rate a link may run.
const burst = 20 * time.Millisecond

// piece is what goes through at once: about 5 ms of the line.
func (l *link) piece() int { return int(max(l.rate/200, 1)) }

// take waits until n more bytes may go.
func (l *link) take(ctx context.Context, n int) error {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now.Add(-burst)) {
		l.free = now.Add(-burst)
	}
	l.free = l.free.Add(time.Duration(int64(n) * int64(time.Second) / l.rate))
	wait := l.free.Sub(now)
	l.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
