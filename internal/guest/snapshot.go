//go:build linux

package guest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/guest/sshd"
	"github.com/smolvm/smolvm/internal/wire"
)

// likeness is what of this machine a restored copy of it has too, until it is renewed.
type likeness struct {
	mu     sync.Mutex
	server *sshd.Server // set before streams are served
}

// heardOfSnapshot does what a message about snapshots asks for, once there is
// somebody to keep out.
func (a *agent) heardOfSnapshot(ctx context.Context, m wire.Message) {
	select {
	case <-a.uplink.ready:
	case <-ctx.Done():
		return
	}
	a.likeness.mu.Lock()
	defer a.likeness.mu.Unlock()
	answer := wire.Message{Type: wire.Held}
	if m.Type == wire.Hold {
		a.uplink.hold()
		unix.Sync() // the less is to be written when the machine is copied
	} else {
		answer.Type = wire.Renewed
		if err := a.renew(ctx, m); err != nil {
			answer.Text = err.Error()
			a.console.printf("%v", err)
		}
	}
	a.uplink.say(answer)
}

// renew lets a machine that was kept go on. Only one that has become what it shall be
// lets anybody in.
func (a *agent) renew(ctx context.Context, m wire.Message) error {
	if m.Identity != nil {
		if err := a.become(*m.Identity); err != nil {
			return fmt.Errorf("make a restored machine a sandbox of its own: %w", err)
		}
	}
	if err := setClock(m.UnixNano); err != nil {
		return err
	}
	if err := a.mountAnew(ctx, m); err != nil {
		return err
	}
	a.uplink.release()
	return nil
}

// become gives the machine another identity: first randomness of its own, from which
// all that follows draws.
func (a *agent) become(id wire.Identity) error {
	if len(id.Entropy) < wire.LeastEntropy {
		return fmt.Errorf("%d random bytes are too few", len(id.Entropy))
	}
	if err := reseed("/dev/urandom", id.Entropy); err != nil {
		return err
	}
	seed, err := a.seed.Become(id)
	if err != nil {
		return err
	}
	keys, err := parseKeys(seed)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(seed.Hostname())); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := setup.WriteIdentity("/", seed); err != nil {
		return err
	}
	a.seed, a.keys = seed, keys
	return a.likeness.server.Rekey(keys.host, keys.authorized)
}

// reseed has the kernel draw its random numbers from these bytes too, at once.
func reseed(device string, entropy []byte) error {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("reseed the kernel's random numbers: %w", err)
	}
	defer file.Close()
	// struct rand_pool_info: bits, bytes, and the bytes themselves.
	pool := struct {
		bits, size int32
		data       [512]byte
	}{}
	if len(entropy) > len(pool.data) {
		return fmt.Errorf("reseed the kernel's random numbers: %d bytes are too many", len(entropy))
	}
	n := copy(pool.data[:], entropy)
	pool.bits, pool.size = int32(8*n), int32(n)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool))); errno != 0 {
		return fmt.Errorf("reseed the kernel's random numbers: add %d bytes: %w", n, errno)
	}
	if err := unix.IoctlSetInt(int(file.Fd()), unix.RNDRESEEDCRNG, 0); err != nil {
		return fmt.Errorf("reseed the kernel's random numbers: %w", err)
	}
	return nil
}

// mountAnew ends the mounts and makes those of the host's list, maybe another host's,
// which counts its lists from the beginning.
func (a *agent) mountAnew(ctx context.Context, list wire.Message) error {
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	a.mounts.serial = list.Serial
	if err := a.mounts.table.Break(); err != nil {
		return err
	}
	return a.mounts.table.Set(ctx, list.Mounts)
}
