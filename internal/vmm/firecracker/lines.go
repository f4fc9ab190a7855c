package firecracker

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/internal/process"
)

const (
	maxLogLine = 8 << 10
	maxMetrics = 256 << 10 // all counters, as one line of JSON
)

// What is looked for in the log.
const (
	readyMark    = "API server started"
	internalMark = "KVM_EXIT_INTERNAL_ERROR"
	requestMark  = "The API server received" // quotes requests, and so the boot's token
	answerMark   = "The request was executed successfully"
)

// lines drains a pipe that Firecracker writes lines into: its log, or its counters.
// The pipe has a reader from before Firecracker starts to after it has ended, so
// nothing is lost, and nothing ever waits for it.
type lines struct {
	file *os.File
	done chan struct{} // closed when the reader has ended

	// Of the Firecracker that runs now. They are read after settle only, but ready.
	ready    chan struct{} // closed when it listens to its API
	internal bool          // KVM could not run the guest
	failures int64         // of processors, as the counters say
	tail     *process.Tail

	mu      sync.Mutex
	isReady bool
	settled chan struct{} // closed when the end that settle marked was read
}

// drain opens a pipe. Opened for both, it never reaches its end.
func drain(path string, longest int) (*lines, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	l := &lines{file: f, done: make(chan struct{})}
	l.begin()
	go l.read(longest)
	return l, nil
}

// begin forgets what an earlier Firecracker wrote. None runs.
func (l *lines) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready, l.isReady, l.internal, l.failures = make(chan struct{}), false, false, 0
	l.tail, l.settled = process.NewTail(nil), make(chan struct{})
}

func (l *lines) read(longest int) {
	defer close(l.done)
	in := bufio.NewReaderSize(l.file, longest)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			l.take(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// endMark is a line that settle writes. No log has it: they begin with a time.
const endMark = "\x00end\n"

// take looks at one line.
func (l *lines) take(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := string(line)
	switch {
	case text == endMark:
		close(l.settled)
		return
	case strings.HasPrefix(text, "{"):
		l.failures += failuresIn(line)
		return
	case strings.Contains(text, requestMark), strings.Contains(text, answerMark):
		return
	case strings.Contains(text, readyMark) && !l.isReady:
		l.isReady = true
		close(l.ready)
		return
	case strings.Contains(text, internalMark):
		l.internal = true
	}
	_, _ = l.tail.Write(line) // never fails
}

// failuresIn reads how many processors failed since the last line.
func failuresIn(line []byte) int64 {
	var counters struct {
		VCPU struct {
			Failures int64 `json:"failures"`
		} `json:"vcpu"`
	}
	if json.Unmarshal(line, &counters) != nil {
		return 0 // a line that did not fit, or was cut by the end
	}
	return counters.VCPU.Failures
}

// settle waits until all that a Firecracker wrote, which has ended, was read, and
// gives the end of it.
func (l *lines) settle() string {
	l.mu.Lock()
	settled := l.settled
	l.mu.Unlock()
	select {
	case <-settled: // called before
	default:
		// A cut line ends here. The reader takes what is before it, so there is room.
		if _, err := io.WriteString(l.file, "\n"+endMark); err == nil {
			select {
			case <-settled:
			case <-l.done:
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.String()
}

// close ends the reader.
func (l *lines) close() {
	_ = l.file.Close()
	<-l.done
}

// printable replaces what could not be shown on a terminal.
func printable(text string) string {
	tail := process.NewTail(nil)
	_, _ = io.WriteString(tail, text) // never fails
	return tail.String()
}
