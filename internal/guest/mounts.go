//go:build linux

package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/guest/mount"
	"github.com/smolvm/smolvm/internal/wire"
)

// mountTime bounds the wait for the host's list of mounts and for its answers.
const mountTime = 30 * time.Second

// mountFolder is where the file system of all mounts is.
const mountFolder = "/run/smolvm/share"

// mounts are the host's folders in this guest.
type mounts struct {
	rooted chan struct{} // closed when there is a root to mount in
	first  chan error    // holds how the first list went

	mu     sync.Mutex
	table  mount.Table
	serial int64 // of the last list
}

// newMounts makes the mounts of a guest; token gives that of its vsock, which is
// known once the command line was read.
func newMounts(token func() string) *mounts {
	open := func(ctx context.Context) (*mount.Stream, error) { return openShare(ctx, token()) }
	return &mounts{
		rooted: make(chan struct{}), first: make(chan error, 1), table: mount.Table{Folder: mountFolder, Open: open},
	}
}

// openShare opens what the mounts go through and greets the host.
func openShare(ctx context.Context, token string) (*mount.Stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, mountTime, errors.New("the host does not answer"))
	defer cancel()
	port, err := openSharePort(ctx, token)
	if err != nil {
		return nil, err
	}
	in, err := link.OpenRaw(ctx, port, rand.Reader)
	if err != nil {
		_ = port.Close()
		return nil, err
	}
	// It stays non-blocking. With reads that block in the kernel, which would save
	// each answer a wake-up, transfers stood still after 20 to 60 MiB until something
	// else was sent (Linux 6.12 under QEMU 7.2).
	return &mount.Stream{In: in, Out: port}, nil
}

// openSharePort waits for the port, or connects where there is vsock.
func openSharePort(ctx context.Context, token string) (link.Port, error) {
	if token != "" {
		return link.DialVsock(ctx, token, wire.ForShare, rand.Reader)
	}
	return link.AwaitPort(ctx, wire.SharePort)
}

// heardOfMounts does what a message about mounts asks for.
func (a *agent) heardOfMounts(ctx context.Context, m wire.Message) {
	if m.Type == wire.Mounts {
		a.mount(ctx, m)
		return
	}
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	a.mounts.table.Touch(m.Changes)
}

// mount makes the mounts those of the host's list, once there is a root.
func (a *agent) mount(ctx context.Context, list wire.Message) {
	select {
	case <-a.mounts.rooted:
	case <-ctx.Done():
		return
	}
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	if list.Serial < a.mounts.serial {
		return // a newer list was faster
	}
	a.mounts.serial = list.Serial
	err := a.mounts.table.Set(ctx, list.Mounts)
	answer := wire.Message{Type: wire.Mounted, Serial: list.Serial}
	if err != nil {
		answer.Text = err.Error()
		a.console.printf("%v", err)
	}
	select {
	case a.mounts.first <- err:
	default:
	}
	a.uplink.say(answer)
}

// awaitMounts waits until the mounts of the start are there: what runs in the
// guest must not find an empty folder in their place.
func (a *agent) awaitMounts(ctx context.Context) error {
	close(a.mounts.rooted)
	if !a.options.Mounts || a.options.Mode != wire.ModeRun {
		return nil
	}
	timer := time.NewTimer(mountTime)
	defer timer.Stop()
	select {
	case err := <-a.mounts.first:
		a.steps.mark("mounts")
		return err
	case <-timer.C:
		return fmt.Errorf("the host did not say what to mount within %v", mountTime)
	case <-ctx.Done():
		return ctx.Err()
	}
}
