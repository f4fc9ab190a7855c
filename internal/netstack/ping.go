package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/wire"
)

// pingTime is how long an answer may take.
const pingTime = 10 * time.Second

// echo takes the guest's echo requests; the stack calls it while it reads frames.
// Those for the gateway the stack answers itself.
func (n *Network) echo(id stack.TransportEndpointID, packet *stack.PacketBuffer) bool {
	from, to := addrPort(id.RemoteAddress, 0), addrPort(id.LocalAddress, 0)
	for _, own := range []netip.Prefix{wire.Gateway4, wire.Gateway6, wire.Resolver4, wire.Resolver6} {
		if own.Addr() == to.Addr() {
			return false
		}
	}
	data := packet.TransportHeader().Slice()
	message := append(append([]byte(nil), data...), packet.Data().AsRange().ToSlice()...)
	if len(message) < header.ICMPv4MinimumSize || !isEchoRequest(to.Addr(), message[0]) {
		return true
	}
	offending := append([]byte(nil), packet.NetworkHeader().Slice()...)
	offending = append(offending, message[:min(len(message), 8)]...)
	flow := n.flows.enter(egress.Echo, from, to, n)
	if flow == nil {
		n.prohibited(from.Addr(), to.Addr(), offending)
		return true
	}
	n.running.Go(func() {
		defer flow.end()
		if n.outward.wait(n.life.Done(), len(message)) != nil {
			return
		}
		flow.sent(len(message))
		answer, err := ping(n.life, to.Addr(), message)
		if err == nil {
			err = n.inward.wait(n.life.Done(), len(answer))
		}
		if err != nil {
			flow.fail(err)
			n.unanswered(from.Addr(), to.Addr(), offending, err)
			return
		}
		flow.received(len(answer))
		copy(answer[4:6], message[4:6]) // the guest's own number
		n.send(to.Addr(), from.Addr(), answer)
	})
	return true
}

// unanswered tells the guest why an echo request got no answer. One that nobody said
// anything about is lost, as on any network.
func (n *Network) unanswered(from, to netip.Addr, offending []byte, err error) {
	var said syscall.Errno
	switch {
	case !errors.As(err, &said):
	case errors.Is(err, os.ErrPermission):
		n.prohibited(from, to, offending)
	case to.Is6():
		n.complain(from, to, byte(header.ICMPv6AddressUnreachable), offending)
	default:
		n.complain(from, to, byte(header.ICMPv4HostUnreachable), offending)
	}
}

func isEchoRequest(to netip.Addr, kind byte) bool {
	if to.Is4() {
		return header.ICMPv4Type(kind) == header.ICMPv4Echo
	}
	return header.ICMPv6Type(kind) == header.ICMPv6EchoRequest
}

// ping sends an echo request by a socket that ordinary users may have, where the
// system lets them, and waits for the answer.
func ping(ctx context.Context, to netip.Addr, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	conn, err := pingSocket(to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	buf := make([]byte, MaxFrame)
	for {
		size, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		answer := buf[:size]
		if len(answer) > 20 && answer[0]>>4 == 4 && to.Is4() { // macOS leaves the header on
			answer = answer[int(answer[0]&0xf)*4:]
		}
		if len(answer) >= 8 && isEchoReply(to, answer[0]) && answer[6] == message[6] && answer[7] == message[7] {
			return answer, nil
		}
	}
}

func isEchoReply(to netip.Addr, kind byte) bool {
	if to.Is4() {
		return header.ICMPv4Type(kind) == header.ICMPv4EchoReply
	}
	return header.ICMPv6Type(kind) == header.ICMPv6EchoReply
}

// pingSocket is a socket for echo requests of an ordinary user. It is connected, so
// that it gets the answers of that address alone, and learns what routers say.
func pingSocket(to netip.Addr) (net.Conn, error) {
	family, protocol := syscall.AF_INET, syscall.IPPROTO_ICMP
	var at syscall.Sockaddr
	if to.Is6() {
		family, protocol, at = syscall.AF_INET6, syscall.IPPROTO_ICMPV6, &syscall.SockaddrInet6{Addr: to.As16()}
	} else {
		at = &syscall.SockaddrInet4{Addr: to.As4()}
	}
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM, protocol)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("this computer lets ordinary users send no pings (sysctl net.ipv4.ping_group_range): %w", err)
	}
	file := os.NewFile(uintptr(fd), "ping")
	defer file.Close() // FileConn works on a copy
	if err := syscall.Connect(fd, at); err != nil {
		return nil, fmt.Errorf("send a ping: %w", err)
	}
	return net.FileConn(file)
}

// prohibited tells the guest that a packet may not pass.
func (n *Network) prohibited(to, from netip.Addr, offending []byte) {
	if to.Is6() {
		n.complain(to, from, byte(header.ICMPv6Prohibited), offending)
		return
	}
	n.complain(to, from, byte(header.ICMPv4AdminProhibited), offending)
}

// unreachable tells the guest that nobody takes the datagrams of a flow.
func (n *Network) unreachable(x *flow) {
	from, to := x.from, x.to
	datagram := header.UDP(make([]byte, header.UDPMinimumSize))
	datagram.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: header.UDPMinimumSize})
	if to.Addr().Is6() {
		packet := header.IPv6(make([]byte, header.IPv6MinimumSize))
		packet.Encode(&header.IPv6Fields{
			PayloadLength: header.UDPMinimumSize, TransportProtocol: header.UDPProtocolNumber, HopLimit: 64,
			SrcAddr: addressOf(from.Addr()), DstAddr: addressOf(to.Addr()),
		})
		n.complain(from.Addr(), to.Addr(), byte(header.ICMPv6PortUnreachable), append(packet, datagram...))
		return
	}
	packet := header.IPv4(make([]byte, header.IPv4MinimumSize))
	packet.Encode(&header.IPv4Fields{
		TotalLength: header.IPv4MinimumSize + header.UDPMinimumSize, TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: addressOf(from.Addr()), DstAddr: addressOf(to.Addr()),
	})
	packet.SetChecksum(^packet.CalculateChecksum())
	n.complain(from.Addr(), to.Addr(), byte(header.ICMPv4PortUnreachable), append(packet, datagram...))
}

// complain tells the guest that a packet of its has not arrived, and why.
func (n *Network) complain(to, from netip.Addr, code byte, offending []byte) {
	message := make([]byte, 8, 8+len(offending))
	message[0], message[1] = byte(header.ICMPv4DstUnreachable), code
	if to.Is6() {
		message[0] = byte(header.ICMPv6DstUnreachable)
	}
	n.send(from, to, append(message, offending...))
}

// send sends an ICMP message to the guest. One that cannot be sent is lost, as
// such messages may be.
func (n *Network) send(from, to netip.Addr, message []byte) {
	route, terr := n.stack.FindRoute(card, addressOf(from), addressOf(to), protocolOf(to), false)
	if terr != nil {
		return
	}
	defer route.Release()
	protocol := header.ICMPv4ProtocolNumber
	message[2], message[3] = 0, 0
	if to.Is4() {
		header.ICMPv4(message).SetChecksum(^checksum.Checksum(message, 0))
	} else {
		protocol = header.ICMPv6ProtocolNumber
		sum := header.PseudoHeaderChecksum(protocol, addressOf(from), addressOf(to), uint16(len(message)))
		header.ICMPv6(message).SetChecksum(^checksum.Checksum(message, sum))
	}
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()), Payload: buffer.MakeWithData(message),
	})
	defer packet.DecRef()
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: tcpip.TransportProtocolNumber(protocol), TTL: 64}, packet)
}
