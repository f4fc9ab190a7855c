//go:build linux

// Package bulk serves the bulk streams of the guest link: files that are copied
// into the sandbox or out of it, outside of SSH, whose ciphers cost an emulated
// processor more than all else.
//
// A stream is served by a process of the user who asks: this program again, under
// the name CopyName, with the stream on its standard input and output. What a
// copy that was cut leaves is what the room treecopy says.
package bulk

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/guest/program"
	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/treecopy"
	"github.com/smolvm/smolvm/internal/wire"
)

// CopyName is the name under which the agent's binary copies files.
const CopyName = "smolvm-copy"

// requestTime is how long the first line may take.
const requestTime = 10 * time.Second

// Config is all that a Server needs.
type Config struct {
	Users       []string
	Account     func(name string) (setup.Account, error)
	Environment map[string]string
	Workspace   string
	Program     string // the path of the agent's binary
	Start       func(path string, argv []string, attr *syscall.ProcAttr) (*reap.Process, error)
}

// Server serves bulk streams.
type Server struct{ config Config }

// New makes a Server.
func New(config Config) *Server { return &Server{config} }

// Serve serves one stream to its end, or until ctx ends.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, wire.MaxMessage)
	_ = conn.SetReadDeadline(time.Now().Add(requestTime))
	request, err := readRequest(in)
	_ = conn.SetReadDeadline(time.Time{})
	if err == nil {
		err = s.copy(ctx, request, in, conn)
	}
	if err != nil {
		return errors.Join(err, treecopy.Answer(conn, treecopy.Summary{}, err))
	}
	return nil
}

func readRequest(in *bufio.Reader) (wire.Copy, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return wire.Copy{}, fmt.Errorf("read the request of a copy: %w", err)
	}
	var request wire.Copy
	if err := json.Unmarshal(line, &request); err != nil {
		return wire.Copy{}, fmt.Errorf("read the request of a copy: %w", err)
	}
	return request, nil
}

// copy runs the user's process with the stream on its standard input and output.
// An error means that it did not run; it tells its own by itself.
func (s *Server) copy(ctx context.Context, request wire.Copy, in io.Reader, conn net.Conn) error {
	user := request.User
	if user == "" {
		user = wire.AgentUser
	}
	if !slices.Contains(s.config.Users, user) {
		return fmt.Errorf("there is no user %q", user)
	}
	account, err := s.config.Account(user)
	if err != nil {
		return err
	}
	ours, theirs, err := pipes()
	if err != nil {
		return err
	}
	process, err := s.config.Start(s.config.Program, []string{CopyName, string(request.Op), request.Path, request.Name}, &syscall.ProcAttr{
		Dir:   program.Existing(s.config.Workspace, account.Home, "/"),
		Env:   program.List(program.Environment(account, s.config.Environment)),
		Files: []uintptr{theirs[0].Fd(), theirs[1].Fd(), theirs[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: program.Credential(account)},
	})
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	carry(in, conn, ours, process)
	return nil
}

// carry copies both ways until the process has ended. A host that goes away
// ends the process: by the end of its input, or of whoever takes its output.
func carry(in io.Reader, conn net.Conn, ours []*os.File, process *reap.Process) {
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{ours[0]}, struct{ io.Reader }{in}, make([]byte, 64<<10))
		_ = ours[0].Close()
	})
	_, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{ours[1]}, make([]byte, 64<<10))
	if err != nil {
		_ = process.SignalGroup(syscall.SIGKILL)
	}
	_ = ours[1].Close()
	process.Wait()
	_ = conn.Close() // ends what is still read from the host
	_ = ours[0].SetWriteDeadline(time.Now())
	up.Wait()
}

// pipes are two pipes and no standard error; ours are the ends that are written
// to and read from.
func pipes() (ours, theirs []*os.File, err error) {
	stdin, to, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	from, stdout, err := os.Pipe()
	if err != nil {
		closeAll([]*os.File{stdin, to})
		return nil, nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		closeAll([]*os.File{stdin, to, from, stdout})
		return nil, nil, err
	}
	return []*os.File{to, from}, []*os.File{stdin, stdout, null}, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// Copy is the user's process: args are the fields of a wire.Copy.
func Copy(args []string, in io.Reader, out io.Writer, home string) error {
	if len(args) != 3 {
		return fmt.Errorf("%s takes three arguments", CopyName)
	}
	at := expand(args[1], home)
	if wire.CopyOp(args[0]) == wire.CopySend {
		_, err := treecopy.Send(out, at, nil)
		return err
	}
	place, err := treecopy.Find(at, args[2])
	var sum treecopy.Summary
	if err == nil {
		sum, err = treecopy.Receive(in, place, treecopy.Options{})
	}
	return errors.Join(err, treecopy.Answer(out, sum, err))
}

// expand makes ~ at the start of a path the home.
func expand(path, home string) string {
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || rest[0] == '/') {
		return filepath.Join(home, rest) + trailing(rest)
	}
	return path
}

// trailing keeps what filepath.Join drops and what means something.
func trailing(rest string) string {
	switch {
	case len(rest) > 1 && strings.HasSuffix(rest, "/."):
		return "/."
	case len(rest) > 1 && strings.HasSuffix(rest, "/"):
		return "/"
	}
	return ""
}
