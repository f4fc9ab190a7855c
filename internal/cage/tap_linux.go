package cage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// tapBuffer is how many bytes of the program's frames may wait for us. The kernel
// gives less where its limit is lower.
const tapBuffer = 4 << 20

// makeTap makes the cage's network card and hands its other end out. Both need rights
// in the network namespace, which are dropped later.
func (p Plan) makeTap() error {
	if p.Tap == nil {
		return nil
	}
	if err := p.Tap.create(); err != nil {
		return err
	}
	far, err := p.Tap.raise()
	if err != nil {
		return err
	}
	return errors.Join(unix.Sendmsg(p.handoutFD(), []byte{0}, unix.UnixRights(far), nil, 0), unix.Close(far), unix.Close(p.handoutFD()))
}

// create makes an interface that stays for whoever has this user's name.
func (t Tap) create() error {
	fd, err := unix.Open(TapDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", TapDevice, err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(t.Name)
	if err != nil {
		return fmt.Errorf("name it %q: %w", t.Name, err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("create %s: %w", t.Name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, unix.Getuid()); err != nil {
		return fmt.Errorf("give %s to its user: %w", t.Name, err)
	}
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) // until the namespace ends
}

// raise sets the interface up and opens its other end, a packet socket. Virtio's
// headers come along: the program leaves checksums and cutting to who reads.
func (t Tap) raise() (int, error) {
	if err := t.silence(); err != nil {
		return 0, err
	}
	// Without a protocol it hears nothing before it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("open a packet socket: %w", err)
	}
	for option, value := range map[int]int{unix.PACKET_VNET_HDR: 1, unix.PACKET_IGNORE_OUTGOING: 1} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, value); err != nil {
			return 0, fmt.Errorf("set option %d of a packet socket: %w", option, err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, tapBuffer); err != nil {
		return 0, fmt.Errorf("set the buffer of a packet socket: %w", err)
	}
	index, err := t.setUp(fd)
	if err != nil {
		return 0, err
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return 0, fmt.Errorf("bind a packet socket to %s: %w", t.Name, err)
	}
	return fd, nil
}

// silence keeps this namespace's IPv6 off the interface: it would give it an address.
func (t Tap) silence() error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+t.Name+"/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) { // there is no IPv6
		return nil
	}
	return err
}

// setUp gives the interface its size and sets it up; any socket will do for that.
func (t Tap) setUp(socket int) (index int, err error) {
	request, err := unix.NewIfreq(t.Name)
	if err != nil {
		return 0, err
	}
	set := func(name string, operation uint) {
		if failed := unix.IoctlIfreq(socket, operation, request); failed != nil && err == nil {
			err = fmt.Errorf("%s of %s: %w", name, t.Name, failed)
		}
	}
	request.SetUint32(uint32(t.MTU))
	set("set the packet size", unix.SIOCSIFMTU)
	request.SetUint16(unix.IFF_UP)
	set("set up", unix.SIOCSIFFLAGS)
	set("ask for the number", unix.SIOCGIFINDEX)
	return int(request.Uint32()), err
}
