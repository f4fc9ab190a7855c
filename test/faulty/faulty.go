// Package faulty is an HTTP server that serves a folder the way bad networks,
// proxies and mirrors do: connections cut, pages instead of files, wrong bytes,
// wrong ranges.
//
// Tests put a Fault on a file name and then use the server's address as a
// user would. Without faults it is an ordinary static server that knows single
// ranges, If-Range and entity tags, as nginx does.
package faulty

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"sync"
)

// Fault is what goes wrong with the answers for one file. The zero value is a
// right answer.
type Fault struct {
	Status   int         // answered instead of 200 or 206
	Header   http.Header // added
	Body     []byte      // sent instead of the file
	Redirect string      // answer 302 to there
	Flip     int64       // 1-based number of the byte that is changed; 0: none
	Extra    []byte      // sent after the file, or after the span
	Chunked  bool        // Content-Length is not told
	// Stop ends or pauses the body after After bytes of the answer.
	Stop  Stop
	After int64

	NoRanges     bool   // the whole file is sent whatever is asked for
	ContentRange string // told instead of the right one, with the right bytes
	Shift        int64  // a span is sent from so many bytes later, told as asked for
	Multipart    bool   // a span is sent as multipart/byteranges
	ETag         string // told instead of the right one; "-": none

	// Which answers it spoils: of the requests that ask for a byte of Within (all:
	// the zero value) those after the first Skip, and of those Times; 0: all.
	Within Span
	Skip   int
	Times  int
}

// Stop is a way for a body to end early.
type Stop int

// The ways.
const (
	Never   Stop = iota
	Cut          // the connection breaks
	Hang         // nothing more comes; the connection stays
	Shorten      // a clean end: what came before is announced as the whole
	Slow         // one byte at every call of Server.Tick
	Pause        // the rest comes after Server.Tick
)

// Span is a part of a file. To is exclusive; 0: to the end.
type Span struct{ From, To int64 }

// Request is one that was made.
type Request struct {
	File    string
	Span    Span // asked for; the zero Span: the whole file
	IfRange string
}

// Server serves a folder and counts what it serves.
type Server struct {
	folder string

	mu          sync.Mutex
	faults      map[string][]*Fault
	requests    map[string]int
	sent        map[string]int64
	log         []Request
	connections int
	link        *link

	tick chan struct{}
}

// New makes a server of a folder.
func New(folder string) *Server {
	return &Server{
		folder: folder, faults: map[string][]*Fault{}, requests: map[string]int{}, sent: map[string]int64{},
		tick: make(chan struct{}),
	}
}

// Listen serves on a free port of 127.0.0.1 until stop is called.
func (s *Server) Listen() (address string, stop func()) {
	server := httptest.NewUnstartedServer(s)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.connections++
		}
	}
	server.Start()
	return server.URL, func() {
		server.CloseClientConnections()
		server.Close()
	}
}

// Set puts faults on a file, given by its path without the first slash, or takes
// them away (none, or the zero Fault). A request meets the first that applies.
func (s *Server) Set(file string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[file] = nil
	for _, f := range faults {
		s.faults[file] = append(s.faults[file], &f)
	}
}

// Throttle holds all connections together to so many bytes a second; 0: no limit.
func (s *Server) Throttle(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = nil
	if rate > 0 {
		s.link = &link{rate: rate}
	}
}

// Tick lets one body that is slow or paused go on. It waits until there is one.
func (s *Server) Tick() { s.tick <- struct{}{} }

// Requests is how often a file was asked for.
func (s *Server) Requests(file string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[file]
}

// Sent is how many body bytes of a file were sent in all.
func (s *Server) Sent(file string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[file]
}

// Log are the requests for a file so far, in the order in which they came.
func (s *Server) Log(file string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var log []Request
	for _, r := range s.log {
		if r.File == file {
			log = append(log, r)
		}
	}
	return log
}

// Connections is how many were made to the server.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// begin counts a request and gives the fault that it meets.
func (s *Server) begin(r Request) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[r.File]++
	s.log = append(s.log, r)
	for i, f := range s.faults[r.File] {
		if !r.Span.overlaps(f.Within) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		met := *f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				rest := s.faults[r.File]
				s.faults[r.File] = append(rest[:i:i], rest[i+1:]...)
			}
		}
		return met
	}
	return Fault{}
}

func (s Span) overlaps(t Span) bool {
	return (s.To == 0 || t.From < s.To) && (t.To == 0 || s.From < t.To)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file := path.Clean("/" + r.URL.Path)[1:]
	span, ranged := parseRange(r.Header.Get("Range"))
	fault := s.begin(Request{File: file, Span: span, IfRange: r.Header.Get("If-Range")})
	for key, values := range fault.Header {
		w.Header()[key] = values
	}
	if fault.Redirect != "" {
		http.Redirect(w, r, fault.Redirect, http.StatusFound)
		return
	}
	c, err := s.open(file, fault)
	if err != nil {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	defer c.close()
	s.send(w, r, file, fault, answerFor(w, r, fault, c, span, ranged))
}
