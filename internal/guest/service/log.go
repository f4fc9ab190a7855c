//go:build linux

package service

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// maxLog is where a log begins anew, in bytes; the one before is kept beside it.
const maxLog = 1 << 20

// log is a service's log: NAME.log and, when that was full, NAME.log.1. Writing
// never fails: on a full disk lines are lost, and the service goes on. The nil log
// keeps nothing.
type log struct {
	path string
	now  func() time.Time

	mu   sync.Mutex
	file *os.File
	size int64
}

// openLog goes on with the log that is there.
func openLog(path string, now func() time.Time) (*log, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &log{path: path, now: now}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return l, nil
}

func (l *log) open() error {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write appends, and begins a new file when this one is full.
func (l *log) Write(p []byte) (int, error) {
	if l == nil {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(p)) > maxLog {
		l.turn()
	}
	if l.file == nil {
		return len(p), nil
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

// turn moves the full log aside. Where that fails the log ends.
func (l *log) turn() {
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size = nil, 0
	if os.Rename(l.path, l.path+".1") == nil {
		_ = l.open()
	}
}

// say adds a line of our own.
func (l *log) say(format string, args ...any) {
	if l == nil {
		return
	}
	_, _ = fmt.Fprintf(l, "%s smolvm: %s\n", l.now().UTC().Format(time.RFC3339), fmt.Sprintf(format, args...))
}

// copy adds what comes from a pipe until its end.
func (l *log) copy(from *os.File) {
	buffer := make([]byte, 32<<10)
	_, _ = io.CopyBuffer(writer{l}, reader{from}, buffer)
}

// reader and writer hide the shortcuts of io.Copy, which would splice past Write.
type (
	reader struct{ io.Reader }
	writer struct{ io.Writer }
)

func (l *log) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
