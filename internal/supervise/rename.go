package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sshx"
)

// renameTimeout is how long a sandbox that is busy starting or stopping may take
// to be renamed.
const renameTimeout = 10 * time.Second

// renameRequest asks the supervisor's main loop for another name; it answers once.
type renameRequest struct {
	to     string
	answer chan<- error
}

// Rename gives a locked sandbox another name, in its known_hosts file too: there
// the new name is added before it counts, and the old one taken out after.
func Rename(book *record.Book, lock *record.Lock, from, to string) error {
	if err := record.ValidateName(to); err != nil {
		return err
	}
	if err := pinHost(book.Folder(from), from, to); err != nil {
		return err
	}
	if err := lock.Rename(to); err != nil {
		return errors.Join(err, pinHost(book.Folder(from), from))
	}
	return pinHost(book.Folder(to), to)
}

// pinHost writes the known_hosts file of a sandbox that goes by these names.
func pinHost(folder record.Folder, names ...string) error {
	key, err := os.ReadFile(folder.HostKeyPublic())
	if err != nil {
		return fault.New(fault.Storage, "", "read the sandbox's host key: %w", err)
	}
	var lines []string
	for _, name := range names {
		line, err := sshx.KnownHosts(name, string(key))
		if err != nil {
			return err
		}
		lines = append(lines, line+"\n")
	}
	return folder.WriteKnownHosts(strings.Join(lines, ""))
}

// rename is Rename for the sandbox of this supervisor. What comes of it is the
// sandbox of the new name; the machine, its sockets and its log are not touched.
func (s *supervisor) rename(to string) error {
	if err := Rename(s.book, s.lock, s.rec.Name, to); err != nil {
		return err
	}
	s.log.Info("renamed", "from", s.rec.Name, "to", to)
	s.rec.Name = to
	s.folder = s.book.Folder(to)
	s.name.Store(&to)
	return nil
}

// rename passes a request on and answers with what came of it.
func (s *server) rename(conn *net.UnixConn, out *frameWriter, to string) error {
	answer := make(chan error, 1)
	late := time.NewTimer(renameTimeout)
	defer late.Stop()
	select {
	case s.renames <- renameRequest{to, answer}:
	case <-s.over:
		return s.refuse(conn, out, errStopped)
	case <-late.C:
		return s.refuse(conn, out, fault.New(fault.Conflict, "Try again in a moment.", "the sandbox is just being started or stopped"))
	}
	if err := <-answer; err != nil {
		return s.refuse(conn, out, err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return out.send(accepted, nil)
}

// Rename gives the running sandbox another name. The client goes on only with
// what it has begun: the socket is somewhere else then.
func (c *Client) Rename(ctx context.Context, to string) error {
	call, err := c.begin(ctx, request{Op: opRename, Name: to})
	if err != nil {
		return fmt.Errorf("rename the sandbox: %w", err)
	}
	call.end()
	return nil
}
