package cli

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/ui"
)

// forceAfter is how many signals a program that is attached without a terminal
// may take before SmolVM itself gives in, as docker run does.
const forceAfter = 3

// passEnding is whether the signals that end a command go to the program, too. On a
// terminal they do not: there they mean that the terminal is gone.
const passEnding = true

// waitingSignals is how many signals may wait for the program: of more, as of a
// signal that is pending already, some are lost. It is more than those that end a
// command before it is cancelled.
const waitingSignals = 32

// endingSignals end a command; passedSignals mean nothing to it, and go to the
// program that it runs. What stops a process is left to the shell.
var (
	endingSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	passedSignals = []os.Signal{
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGABRT,
	}
)

// Signals are those that the process hands over in Outside.Signals.
func Signals() []os.Signal { return slices.Concat(endingSignals, passedSignals) }

// signalName is a signal's name without SIG.
func signalName(sig os.Signal) string {
	number, _ := sig.(syscall.Signal)
	return strings.TrimPrefix(unix.SignalName(number), "SIG")
}

// signals decides what a signal to this process means: the end of the command,
// or a message to the program that is attached. A second Ctrl-C does not cut the
// cleaning up short.
type signals struct {
	cancel context.CancelFunc
	say    func(format string, args ...any)

	mu      sync.Mutex
	forward func(os.Signal) // nil: nothing is attached
	ending  bool            // forward gets those that end a command, too
	count   int
}

// watch handles signals until in is closed or ctx has ended and stop is called.
func watch(parent context.Context, in <-chan os.Signal, streams *ui.Streams) (ctx context.Context, s *signals, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	s = &signals{cancel: cancel, say: streams.Say}
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case sig, open := <-in:
				if !open {
					return
				}
				s.handle(sig)
			case <-done:
				return
			}
		}
	})
	return ctx, s, func() {
		close(done)
		watcher.Wait()
		cancel()
	}
}

// handle takes one signal.
func (s *signals) handle(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(passedSignals, sig) {
		if s.forward != nil {
			s.forward(sig)
		}
		return
	}
	s.count++
	passes := s.forward != nil && s.ending
	switch {
	case passes && s.count < forceAfter:
		s.forward(sig)
	case s.count == 1 || passes:
		s.cancel()
	default:
		s.say("smolvm: cleaning up, one moment")
	}
}

// attach sends signals to f until the returned function is called.
func (s *signals) attach(ending bool, f func(os.Signal)) (detach func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forward, s.ending, s.count = f, ending, 0
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forward, s.count = nil, 0
	}
}

// passSignals gives the names of signals that are for the program. One with a
// terminal of the user's learns of its size in another way.
func (a *App) passSignals(ending bool) (names <-chan string, stop func()) {
	out := make(chan string, waitingSignals)
	return out, a.signals.attach(ending, func(sig os.Signal) {
		if sig == syscall.SIGWINCH && !ending {
			return
		}
		select {
		case out <- signalName(sig):
		default: // the program is not taking them: the next ones that end force the end
		}
	})
}
