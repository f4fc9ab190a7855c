//go:build linux

// Package service keeps a sandbox's services running: it starts them, starts
// them again with a growing pause when they end, and stops them when the machine
// ends.
//
// Inputs are the services of the seed; outputs are processes and a log of each in
// a folder, bounded in size. The logs are on the sandbox's disk and outlive boots
// and crashes; nothing else is kept.
package service

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/guest/program"
	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

// drainTime is how long output is waited for that left-over children could still write.
const drainTime = 200 * time.Millisecond

// Config is all that a Keeper needs.
type Config struct {
	Services    []wire.Service
	Account     func(name string) (setup.Account, error)
	Environment map[string]string // of every service, over the account's
	Workspace   string            // where services start; the home where it does not exist
	// Start starts a program; the reaper's.
	Start func(path string, argv []string, attr *syscall.ProcAttr) (*reap.Process, error)
	Logs  string        // folder of the logs
	Gates string        // folder of the files that are locked until a service answers
	Grace time.Duration // between SIGTERM and SIGKILL when services are stopped
	Pause Pause
	Now   func() time.Time
	Logf  func(format string, args ...any) // the console
}

// Keeper keeps services until Stop.
type Keeper struct {
	config Config
	gates  map[string]*gate // of services with a port
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// New makes the Keeper of services that Start starts. From here on whoever waits for
// one of them waits until it answers.
func New(config Config) *Keeper {
	k := &Keeper{config: config, gates: map[string]*gate{}, cancel: func() {}}
	for _, s := range config.Services {
		if s.Port == 0 {
			continue
		}
		var err error
		if k.gates[s.Name], err = newGate(config.Gates, s.Name); err != nil {
			config.Logf("service %s: %v", s.Name, err)
		}
	}
	return k
}

// Start starts the services. Those that cannot be started say so in their logs. The
// nil Keeper has none.
func (k *Keeper) Start() {
	if k == nil {
		return
	}
	var ctx context.Context
	ctx, k.cancel = context.WithCancel(context.Background())
	for _, s := range k.config.Services {
		k.group.Go(func() { k.keep(ctx, s) })
	}
}

// Stop stops all services and returns when they have ended. The nil Keeper has none.
func (k *Keeper) Stop() {
	if k == nil {
		return
	}
	k.cancel()
	k.group.Wait()
}

// keep runs one service again and again.
func (k *Keeper) keep(ctx context.Context, s wire.Service) {
	log := k.openLog(s.Name)
	defer log.close()
	pause := backoff{Pause: k.config.Pause}
	for {
		began := k.config.Now()
		how, failed := k.run(ctx, s, log)
		k.gates[s.Name].close()
		if ctx.Err() != nil {
			log.say("stopped: %s", how)
			return
		}
		k.config.Logf("service %s %s", s.Name, how)
		if s.Restart == wire.RestartNever || s.Restart == wire.RestartOnFailure && !failed {
			log.say("%s", how)
			k.gates[s.Name].open() // it will never answer
			return
		}
		wait := pause.next(k.config.Now().Sub(began))
		log.say("%s; it starts again in %v", how, wait)
		if !rest(ctx, wait) {
			return
		}
	}
}

// openLog opens a service's log. A service without one runs all the same.
func (k *Keeper) openLog(name string) *log {
	l, err := openLog(filepath.Join(k.config.Logs, name+".log"), k.config.Now)
	if err != nil {
		k.config.Logf("service %s: %v", name, err)
	}
	return l
}

// run runs a service once, and says how it ended and whether that was a failure.
func (k *Keeper) run(ctx context.Context, s wire.Service, log *log) (how string, failed bool) {
	process, output, err := k.launch(s)
	if err != nil {
		return fmt.Sprintf("could not be started: %v", err), true
	}
	defer output.Close()
	log.say("started as process %d: %q", process.Pid, s.Run)
	var group sync.WaitGroup
	group.Go(func() { log.copy(output) })
	watching, enough := context.WithCancel(ctx)
	group.Go(func() { k.watch(watching, s, log) })
	select {
	case <-process.Done():
	case <-ctx.Done():
		k.end(process)
	}
	status := process.Wait()
	enough()
	program.SignalSession(process.Pid, syscall.SIGKILL) // what it left behind
	_ = output.SetReadDeadline(time.Now().Add(drainTime))
	group.Wait()
	if sig := status.Signal(); sig != 0 {
		return fmt.Sprintf("was ended by signal %d (%v)", int(sig), sig), true
	}
	return fmt.Sprintf("ended with status %d", status.Code()), status.Code() != 0
}

// launch starts the service in a session of its own. Both its outputs are one pipe.
func (k *Keeper) launch(s wire.Service) (*reap.Process, *os.File, error) {
	user := s.User
	if user == "" {
		user = wire.AgentUser
	}
	account, err := k.config.Account(user)
	if err != nil {
		return nil, nil, err
	}
	env := program.Environment(account, k.config.Environment)
	program.KeepLocales(env)
	dir := program.Existing(k.config.Workspace, account.Home)
	path, err := program.LookPath(s.Run[0], env["PATH"], dir)
	if err != nil {
		return nil, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	process, err := k.config.Start(path, s.Run, &syscall.ProcAttr{
		Dir: dir, Env: program.List(env),
		Files: []uintptr{null.Fd(), theirs.Fd(), theirs.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: program.Credential(account)},
	})
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	return process, ours, nil
}

// end asks a process and its group to end, and makes them when grace is over.
func (k *Keeper) end(process *reap.Process) {
	_ = process.SignalGroup(syscall.SIGTERM)
	timer := time.NewTimer(k.config.Grace)
	defer timer.Stop()
	select {
	case <-process.Done():
	case <-timer.C:
		_ = process.SignalGroup(syscall.SIGKILL)
	}
}
