//go:build linux

package link

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// answerTime bounds the host's part of a handshake: it answers at once, also when
// it is busy, or is not the host.
const answerTime = 30 * time.Second

// ErrNoVsock says that the kernel has no vsock device (yet).
var ErrNoVsock = errors.New("there is no vsock device")

// DialVsock connects to the host for a purpose and proves that this is the guest. It
// returns when the host has proved that it is the one that started it.
func DialVsock(ctx context.Context, token string, purpose wire.Purpose, random io.Reader) (Port, error) {
	conn, err := connectVsock()
	if err != nil {
		return nil, fmt.Errorf("connect to the host by vsock: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := introduce(conn, token, purpose, random); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to the host by vsock: %w", err)
	}
	return conn, nil
}

// connectVsock connects. A host that does not listen refuses at once; the kernel
// itself gives up after 2 s.
func connectVsock() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, ErrNoVsock
	}
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrVM{CID: wire.VsockHost, Port: wire.VsockPort})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // Go then waits in its poller
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.ENODEV) {
			return nil, ErrNoVsock
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), "vsock"), nil
}

// introduce says hello and checks the answer, of which it reads no byte too much.
func introduce(conn *os.File, token string, purpose wire.Purpose, random io.Reader) error {
	raw := make([]byte, wire.NonceLen)
	if _, err := io.ReadFull(random, raw); err != nil {
		return fmt.Errorf("make nonce: %w", err)
	}
	nonce := hex.EncodeToString(raw)
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	defer conn.SetDeadline(time.Time{}) //nolint:errcheck // a failing connection fails its next read
	if _, err := io.WriteString(conn, wire.VsockHello(token, purpose, nonce)); err != nil {
		return err
	}
	line := make([]byte, len(wire.VsockAnswer(token, purpose, nonce)))
	if _, err := io.ReadFull(conn, line); err != nil {
		return fmt.Errorf("wait for the host's proof: %w", err)
	}
	if !wire.CheckVsockAnswer(token, string(line), purpose, nonce) {
		return errors.New("what answers is not the host that started this machine")
	}
	return nil
}
