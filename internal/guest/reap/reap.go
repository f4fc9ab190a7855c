//go:build linux

// Package reap starts programs and collects every child's status in one place.
//
// As process 1 the agent inherits all orphans of the machine. If the starter of a
// program waited for it by itself, it would race with the loop that collects
// orphans; so the Reaper owns wait4, hands the statuses of its own programs to
// their starters and drops the others. Process ids are only signalled under the
// lock that also guards collecting, so a reused id is never hit.
package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrEnded says that the process has ended and was collected.
var ErrEnded = errors.New("process has ended")

// Reaper collects children. Make one with New and keep Run going.
type Reaper struct {
	signals chan os.Signal

	mu       sync.Mutex
	children map[int]*Process
	idle     chan struct{} // closed while the process has no children at all
}

// New returns a Reaper that already listens for ended children.
func New() *Reaper {
	r := &Reaper{signals: make(chan os.Signal, 1), children: map[int]*Process{}, idle: make(chan struct{})}
	signal.Notify(r.signals, unix.SIGCHLD)
	return r
}

// Run collects children until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	defer signal.Stop(r.signals)
	for {
		r.collect()
		select {
		case <-r.signals:
		case <-ctx.Done():
			return
		}
	}
}

// Idle returns a channel that is closed once no child is left. For process 1
// that means no other process is left in the machine.
func (r *Reaper) Idle() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.idle
}

func (r *Reaper) collect() {
	for r.collectOne() {
	}
}

// collectOne reports whether there may be more to collect. The lock is held
// across wait4 and the hand-over so that Signal never sees a stale id.
func (r *Reaper) collectOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	switch {
	case errors.Is(err, unix.EINTR):
		return true
	case errors.Is(err, unix.ECHILD):
		r.setIdle()
		return false
	case err != nil || pid == 0:
		return false
	}
	if p, ok := r.children[pid]; ok {
		delete(r.children, pid)
		p.status = Status{status}
		close(p.done)
	}
	return true
}

func (r *Reaper) setIdle() {
	select {
	case <-r.idle:
	default:
		close(r.idle)
	}
}

// Start starts a program. The lock is held so that neither its end nor the end
// of a child whose exec failed (which the fork itself waits for) can be
// collected before the process is known.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, &os.PathError{Op: "start", Path: path, Err: err}
	}
	select {
	case <-r.idle:
		r.idle = make(chan struct{})
	default:
	}
	p := &Process{Pid: pid, reaper: r, done: make(chan struct{})}
	r.children[pid] = p
	return p, nil
}

// Process is a started program.
type Process struct {
	Pid    int
	reaper *Reaper
	done   chan struct{}
	status Status
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end and returns the status.
func (p *Process) Wait() Status {
	<-p.done
	return p.status
}

// Signal sends sig to the process alone.
func (p *Process) Signal(sig syscall.Signal) error { return p.kill(p.Pid, sig) }

// SignalGroup sends sig to the process group that the process leads.
func (p *Process) SignalGroup(sig syscall.Signal) error { return p.kill(-p.Pid, sig) }

func (p *Process) kill(target int, sig syscall.Signal) error {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	select {
	case <-p.done:
		return ErrEnded
	default:
	}
	if err := unix.Kill(target, sig); err != nil {
		return fmt.Errorf("signal process %d: %w", p.Pid, err)
	}
	return nil
}

// Status is how a process ended.
type Status struct{ wait unix.WaitStatus }

// Code is the exit status, or 128 plus the signal's number as shells have it.
func (s Status) Code() int {
	if s.wait.Signaled() {
		return 128 + int(s.wait.Signal())
	}
	return s.wait.ExitStatus()
}

// Signal is the signal that ended the process, zero after an exit.
func (s Status) Signal() syscall.Signal {
	if s.wait.Signaled() {
		return s.wait.Signal()
	}
	return 0
}

// CoreDump reports whether the process left a core dump.
func (s Status) CoreDump() bool { return s.wait.CoreDump() }
