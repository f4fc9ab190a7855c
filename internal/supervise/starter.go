package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

// What a supervisor inherits from its starter: two pipes and the sandbox's lock,
// which is thereby never free in between. The pipes carry JSON lines. The
// starter writes its order, and commits after ready; an end of its pipe before
// that means that it is gone, and with it the start. The supervisor writes
// reports: events, ready, then done or failed.
const (
	reportsFD = 3
	ordersFD  = 4
	lockFD    = 5
	// maxLineBytes bounds one line on a pipe: a failure's text, JSON quoting it.
	maxLineBytes = 256 << 10
)

// Order is what a starter wants.
type Order struct {
	Timeout time.Duration `json:"timeout_ns"`      // until ready, or packed
	Mode    wire.Mode     `json:"mode,omitempty"`  // instead of the record's
	Extra   string        `json:"extra,omitempty"` // path of drive extra0, writable, instead of the record's
	// Credentials are for this run only: they come through a pipe and stay in memory.
	Credentials *wire.Credentials `json:"credentials,omitempty"`
	// Secrets are kept from the guest; they stay in memory as well. Sources are where
	// they came from, which the record remembers.
	Secrets []escrow.Secret `json:"secrets,omitempty"`
	Sources []string        `json:"sources,omitempty"`
	// Idle is after what time without a use the sandbox stops; 0: never.
	Idle time.Duration `json:"idle_ns,omitempty"`
	// Keep is written into the record; nil leaves it.
	Keep *bool `json:"keep,omitempty"`
	// LoginHome is the folder in which login files that the agent renewed replace those
	// that it was given, before the sandbox stops by itself; empty: they do not.
	LoginHome string `json:"login_home,omitempty"`
	NoNet     bool   `json:"no_network,omitempty"` // whatever the record says
	// From is the folder of a snapshot that the machine runs on from; empty: it boots.
	From string `json:"from,omitempty"`
	// Capture is the path of a new file for the traffic of this run; empty: none.
	Capture string `json:"capture,omitempty"`
	// Unscoped says why systemd, which was asked, gave the supervisor no control group;
	// empty: it did, or was not asked.
	Unscoped string `json:"unscoped,omitempty"`
}

// packs says whether the guest packs a layer and ends, instead of running on.
func (o Order) packs() bool { return o.Mode == wire.ModePack }

type reportType string

const (
	reportHere   reportType = "here"   // it runs; always the first
	reportEvent  reportType = "event"  // for the starter's sink
	reportReady  reportType = "ready"  // the sandbox is ready; the starter has to commit
	reportDone   reportType = "done"   // committed and recorded, or packed; nothing follows
	reportFailed reportType = "failed" // nothing is left of the start; nothing follows
)

// report is one line of the supervisor.
type report struct {
	Type    reportType   `json:"type"`
	Event   *event.Event `json:"event,omitempty"`
	Failure *failure     `json:"failure,omitempty"`
	Bytes   int64        `json:"bytes,omitempty"` // size of what was packed
}

// commitLine is what the starter writes to keep a sandbox that is ready.
const commitLine = "commit\n"

// errStarterGone says that the starter ended before it committed.
var errStarterGone = fault.New(fault.Interrupted, "", "the program that started the sandbox went away")

// starter is the supervisor's end of the two pipes.
type starter struct {
	reports io.WriteCloser
	orders  io.ReadCloser
	lines   *bufio.Reader
	log     func(msg string, args ...any)

	reading   sync.WaitGroup
	committed chan struct{} // closed by the commit
	gone      chan struct{} // closed when the pipe ends before that
}

// newStarter takes the inherited pipes.
func newStarter(log func(string, ...any)) *starter {
	orders := inherited(ordersFD, "orders")
	return &starter{
		reports: inherited(reportsFD, "reports"), orders: orders, lines: bufio.NewReaderSize(orders, maxLineBytes), log: log,
		committed: make(chan struct{}), gone: make(chan struct{}),
	}
}

// inherited is a file of the starter's. The VMM must not hold it open.
func inherited(fd int, name string) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// order waits for the order. From then on the pipe is watched.
func (s *starter) order() (Order, error) {
	line, err := s.lines.ReadSlice('\n')
	if err != nil {
		return Order{}, errStarterGone
	}
	var o Order
	if err := json.Unmarshal(line, &o); err != nil {
		return Order{}, fmt.Errorf("decode the order: %w", err)
	}
	if o.Timeout <= 0 {
		return Order{}, errors.New("decode the order: no time to become ready")
	}
	s.reading.Go(s.watch)
	return o, nil
}

// watch waits for the commit.
func (s *starter) watch() {
	if line, err := s.lines.ReadString('\n'); err == nil && line == commitLine {
		close(s.committed)
		return
	}
	close(s.gone)
}

// report writes one line. A starter that is gone shows in watch.
func (s *starter) report(r report) {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = s.reports.Write(append(line, '\n'))
	}
	if err != nil {
		s.log("report to the starter", "error", err)
	}
}

func (s *starter) event(e event.Event) { s.report(report{Type: reportEvent, Event: &e}) }

func (s *starter) fail(err error) {
	f := failureOf(err)
	s.report(report{Type: reportFailed, Failure: &f})
}

// close closes the pipes. What reads orders ends with it, or with the process.
func (s *starter) close() {
	_ = s.reports.Close()
	_ = s.orders.Close()
}
