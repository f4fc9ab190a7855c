package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// requestTimeout is how long a client may take for its first frame.
	requestTimeout = 10 * time.Second
	// answerTimeout is how long a client may take to read a short answer.
	answerTimeout = 2 * time.Second
	// acceptPause is the pause after a failed accept.
	acceptPause = 200 * time.Millisecond
)

// sessions is what the server needs of the guest.
type sessions interface {
	// session gives the SSH connection, waiting while the guest boots.
	session(ctx context.Context) (*sshx.Client, error)
	// stream opens a bare stream of a kind to the guest.
	stream(ctx context.Context, kind wire.StreamKind) (net.Conn, error)
	// farewell is why the guest ended the programs of a connection, for which it may be
	// waited; nil: it did not.
	farewell(of *sshx.Client, wait time.Duration) error
}

// vault is where the user's credentials go.
type vault interface {
	give(ctx context.Context, c wire.Credentials) (note string, err error)
	logins(ctx context.Context) ([]Login, error)
	variables(ctx context.Context, v Variables) error
}

// stopRequest asks the supervisor's main loop to end the guest.
type stopRequest struct {
	grace time.Duration
	idle  bool // nobody used it; else somebody asked
}

// server answers the control socket.
type server struct {
	guest  sessions
	pulse  *pulse
	vault  vault
	ports  portTable
	wanted *addresses
	larger func(ctx context.Context, size int64) error
	kept   func(ctx context.Context, o Snapshot) error
	status func() Status
	stops  chan<- stopRequest
	// renames asks the main loop, as stops does.
	renames  chan<- renameRequest
	remounts chan<- remountRequest
	// networks asks it too.
	networks chan<- networkRequest
	idle     *idle
	// keep decides whether the sandbox stops when nobody uses it.
	keep func(ctx context.Context, keep bool) error
	over <-chan struct{} // closed when the main loop takes no more stops
	done <-chan struct{} // closed when the sandbox is released
	log  *slog.Logger

	listener *net.UnixListener
	running  sync.WaitGroup
}

// listen makes the control socket in a private folder and answers until shut
// down. Operations in progress end with ctx.
func (s *server) listen(ctx context.Context, folder string) error {
	path := filepath.Join(folder, SocketName)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // the folder is 0700 already
		return errors.Join(fmt.Errorf("open the control socket: %w", err), listener.Close())
	}
	listener.SetUnlinkOnClose(false) // the folder's owner removes it; by then another may listen there
	s.listener = listener
	s.running.Go(func() { s.accept(ctx) })
	return nil
}

// shut stops listening; wait waits for what is in progress.
func (s *server) shut() {
	if s.listener != nil {
		_ = s.listener.Close()
	}
}

func (s *server) wait() { s.running.Wait() }

func (s *server) accept(ctx context.Context) {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors: it would fail again at once
			s.log.Warn("accept a client", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		s.running.Go(func() {
			defer conn.Close()
			if err := s.serve(ctx, conn); err != nil && !gone(err) {
				s.log.Warn("serve a client", "error", err)
			}
		})
	}
}

// gone says whether err only means that the client or the sandbox went away.
func gone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled)
}

// serve does one operation.
func (s *server) serve(ctx context.Context, conn *net.UnixConn) error {
	in, out := &frameReader{in: conn}, &frameWriter{out: conn}
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	k, payload, err := in.next()
	if err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Time{})
	r, err := decodeRequest(k, payload)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	switch r.Op {
	case opStatus:
		return out.sendJSON(accepted, s.status())
	case opStop:
		return s.stop(conn, out, r.Grace)
	case opExec, opSSH, opBulk, opLoopback:
		return s.session(ctx, conn, in, out, r)
	case opWake:
		return s.wake(ctx, conn, out, r.Keep)
	case opWatch:
		return s.watch(conn, out)
	case opGive:
		return s.give(ctx, conn, out, *r.Credentials)
	case opVariables:
		return s.variables(ctx, conn, out, *r.Variables)
	case opUsage:
		return s.usage(ctx, conn, out, *r.Usage)
	case opGrow:
		return s.grow(ctx, conn, out, r.Bytes)
	case opSnapshot:
		return s.snapshot(ctx, conn, out, *r.Snapshot)
	case opLogins:
		return s.logins(ctx, conn, out)
	case opRename:
		return s.rename(conn, out, r.Name)
	case opPort:
		return s.port(ctx, conn, out, *r.Port)
	case opMounts:
		return s.remount(conn, out, *r.Mounts)
	case opNetwork:
		return s.network(conn, out, *r.Network)
	}
	return s.refuse(conn, out, fmt.Errorf("%s %.40q", unknownOperation, r.Op))
}

func (s *server) refuse(conn *net.UnixConn, out *frameWriter, err error) error {
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return out.sendJSON(failed, failureOf(err))
}

// stop asks for the end and answers when the sandbox is released. A client that
// goes away does not take its request back.
func (s *server) stop(conn *net.UnixConn, out *frameWriter, grace time.Duration) error {
	select {
	case s.stops <- stopRequest{grace: grace}:
	case <-s.over:
	}
	<-s.done
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return out.send(accepted, nil)
}

// watch holds the connection until the sandbox is released or the client goes away.
func (s *server) watch(conn *net.UnixConn, out *frameWriter) error {
	if err := out.send(accepted, nil); err != nil {
		return err
	}
	gone := make(chan struct{})
	s.running.Go(func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1)) // a watcher says nothing
	})
	select {
	case <-gone:
	case <-s.done:
	}
	return nil // the caller closes the connection, which ends the read
}

// ssh joins the client to a new stream of the guest's SSH server.
func (s *server) ssh(ctx context.Context, conn *net.UnixConn, out *frameWriter) error {
	stream, err := s.guest.stream(ctx, wire.StreamSSH)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	return join(ctx, conn, out, stream)
}

// bulk joins the client to a new bulk stream.
func (s *server) bulk(ctx context.Context, conn *net.UnixConn, out *frameWriter, request wire.Copy) error {
	line, err := json.Marshal(request)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	stream, err := s.guest.stream(ctx, wire.StreamBulk)
	if err == nil {
		_, err = stream.Write(append(line, '\n'))
	}
	if err != nil {
		return s.refuse(conn, out, err)
	}
	return join(ctx, conn, out, stream)
}

// join accepts the client and carries bytes both ways.
func join(ctx context.Context, conn *net.UnixConn, out *frameWriter, stream net.Conn) error {
	defer stream.Close()
	if err := out.send(accepted, nil); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(stream, conn)
		_ = stream.Close() // a yamux stream half-closes
	})
	_, err := io.Copy(conn, stream)
	_ = conn.Close()
	up.Wait()
	return err
}
