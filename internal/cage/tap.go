package cage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/process"
)

// Tap is a network card of a cage: an interface in the cage's own network namespace,
// which the program opens by its name. It has no address, and nothing but the program
// and the holder of its other end ever sees a frame of it.
type Tap struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"`
}

// TapDevice is where programs open taps; a cage with one has to show it.
const TapDevice = "/dev/net/tun"

// handoutFD is where the stage finds the socket of a Handout: behind the plan and the
// files that the program is given.
func (p Plan) handoutFD() int { return FirstFile + p.Files }

// Handout is the way on which the other end of a cage's tap comes out of the cage.
type Handout struct {
	ours   *net.UnixConn
	theirs *os.File
}

// NewHandout makes the way for one cage.
func NewHandout() (*Handout, error) {
	ours, theirs, err := process.SocketPair("handout")
	if err != nil {
		return nil, fmt.Errorf("make the way out of a cage: %w", err)
	}
	return &Handout{ours, theirs}, nil
}

// Give adds the stage's end to the files of a command that Command made.
func (h *Handout) Give(cmd *process.Cmd) { cmd.ExtraFiles = append(cmd.ExtraFiles, h.theirs) }

// Started closes the stage's end here, once the command was started or will not be.
func (h *Handout) Started() { _ = h.theirs.Close() }

// Close lets go of both ends.
func (h *Handout) Close() {
	_ = h.theirs.Close()
	_ = h.ours.Close()
}

// Take waits for the other end of the tap, a packet socket. It fails when the stage
// ends without giving one, which then says why itself.
func (h *Handout) Take(ctx context.Context) (*os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = h.ours.Close() })
	defer stop()
	defer h.ours.Close()
	rights := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := h.ours.ReadMsgUnix(make([]byte, 1), rights)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var fd int
	if err == nil {
		fd, err = fileIn(rights[:n])
	}
	if err != nil {
		return nil, fmt.Errorf("take the network card out of its cage: %w", err)
	}
	return os.NewFile(uintptr(fd), "tap"), nil
}

// fileIn is the one open file that a message brings. It is closed on exec and does
// not block.
func fileIn(rights []byte) (int, error) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return 0, err
	}
	if len(messages) != 1 {
		return 0, errors.New("the cage ended without giving it")
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, errors.Join(err, fmt.Errorf("%d files came", len(fds)))
	}
	syscall.CloseOnExec(fds[0])
	return fds[0], syscall.SetNonblock(fds[0], true)
}

// tapStep is the name of the step that makes the tap.
const tapStep = "make the network card"

// tapTrouble tells what is in the way of a tap, where a cause is about one.
func tapTrouble(cause string) (why, fix string) {
	switch {
	case !strings.Contains(cause, tapStep):
	case strings.Contains(cause, "permission denied"):
		return TapDevice + " is closed to ordinary users", "Open it, once: printf 'KERNEL==\"tun\", MODE=\"0666\", OPTIONS+=\"static_node=net/tun\"\\n' | " +
			"sudo tee /etc/udev/rules.d/60-smolvm-tun.rules && sudo chmod 0666 " + TapDevice
	case strings.Contains(cause, "no such "):
		return "this system has no " + TapDevice, "Load its module, once: echo tun | sudo tee /etc/modules-load.d/smolvm-tun.conf && sudo modprobe tun"
	}
	return "", ""
}
