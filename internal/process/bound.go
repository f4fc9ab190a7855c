package process

import (
	"os/exec"
	"syscall"
)

// Child is a program whose life is bound to this process.
type Child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of the program's end; set before done is closed
}

// StartBound starts cmd so that the kernel ends it (SIGKILL) when this process
// ends for whatever reason, kill -9 included. The caller must not call
// cmd.Wait; Child.Wait does the same and may be called often.
//
// Linux sends the signal when the thread that started the program ends, so the
// goroutine here keeps its thread until the program is gone. On macOS nothing
// of the kind exists: there the program is started plainly until a guard
// process holds a pipe for it.
func StartBound(cmd *exec.Cmd) (*Child, error) {
	c := &Child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	go func() {
		release := bind(cmd.SysProcAttr)
		defer release()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// Pid is the program's process id.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Done is closed when the program has ended and its output was passed on.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for the program's end and returns what exec.Cmd.Wait does.
func (c *Child) Wait() error {
	<-c.done
	return c.err
}

// Kill ends the program at once and waits for it. Ending one that is already
// gone is no error.
func (c *Child) Kill() {
	_ = c.cmd.Process.Kill() // fails only when it already ended
	<-c.done
}
