// Package faulty is an HTTP server that serves a folder the way bad networks,
// proxies and mirrors do: connections cut, pages instead of files, wrong bytes.
//
// Tests put a Fault on a file name and then use the server's address as a
// user would. Without faults it is an ordinary static server.
package faulty

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
)

// Fault is what goes wrong with the answers for one file. The zero value is a
// right answer.
type Fault struct {
	Status   int         // answered instead of 200
	Header   http.Header // added
	Body     []byte      // sent instead of the file
	Redirect string      // answer 302 to there
	Flip     int64       // 1-based number of the byte that is changed; 0: none
	Extra    []byte      // sent after the file
	Chunked  bool        // Content-Length is not told
	// Stop ends or pauses the body after After bytes.
	Stop  Stop
	After int64
	Times int // how many answers it spoils; 0: all
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

// Server serves a folder and counts what it serves.
type Server struct {
	folder string

	mu       sync.Mutex
	faults   map[string]*Fault
	requests map[string]int
	sent     map[string]int64

	tick chan struct{}
}

// New makes a server of a folder.
func New(folder string) *Server {
	return &Server{
		folder: folder, faults: map[string]*Fault{}, requests: map[string]int{}, sent: map[string]int64{},
		tick: make(chan struct{}),
	}
}

// Listen serves on a free port of 127.0.0.1 until stop is called.
func (s *Server) Listen() (address string, stop func()) {
	server := httptest.NewServer(s)
	return server.URL, func() {
		server.CloseClientConnections()
		server.Close()
	}
}

// Set puts a fault on a file, given by its path without the first slash, or
// takes it away (the zero Fault).
func (s *Server) Set(file string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[file] = &f
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

// begin counts a request and gives the fault that it meets.
func (s *Server) begin(file string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[file]++
	f := s.faults[file]
	if f == nil {
		return Fault{}
	}
	met := *f
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(s.faults, file)
		}
	}
	return met
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file := path.Clean("/" + r.URL.Path)[1:]
	fault := s.begin(file)
	for key, values := range fault.Header {
		w.Header()[key] = values
	}
	if fault.Redirect != "" {
		http.Redirect(w, r, fault.Redirect, http.StatusFound)
		return
	}
	body := fault.Body
	if body == nil {
		var err error
		if body, err = os.ReadFile(filepath.Join(s.folder, filepath.FromSlash(file))); err != nil {
			http.Error(w, "no such file", http.StatusNotFound)
			return
		}
	}
	if fault.Flip > 0 && fault.Flip <= int64(len(body)) {
		body = append([]byte(nil), body...)
		body[fault.Flip-1] ^= 0x40
	}
	body = append(body[:len(body):len(body)], fault.Extra...)
	s.send(w, r, file, fault, body)
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, file string, fault Fault, body []byte) {
	after := min(fault.After, int64(len(body)))
	if fault.Stop == Shorten {
		body = body[:after]
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	if !fault.Chunked {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	if fault.Status != 0 {
		w.WriteHeader(fault.Status)
	}
	out := counter{w, func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent[file] += int64(n)
	}}
	if fault.Stop == Never || fault.Stop == Shorten {
		if fault.Chunked { // or net/http tells the length of a short body after all
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = out.Write(body)
		return
	}
	_, _ = out.Write(body[:after])
	_ = http.NewResponseController(w).Flush()
	s.rest(out, w, r, fault.Stop, body[after:])
}

func (s *Server) rest(out io.Writer, w http.ResponseWriter, r *http.Request, stop Stop, body []byte) {
	switch stop {
	case Cut:
		panic(http.ErrAbortHandler)
	case Hang:
		<-r.Context().Done()
	case Pause:
		if s.wait(r) {
			_, _ = out.Write(body)
		}
	case Slow:
		for i := range body {
			if !s.wait(r) {
				return
			}
			_, _ = out.Write(body[i : i+1])
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

type counter struct {
	w     io.Writer
	count func(n int)
}

func (c counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.count(n)
	return n, err
}
