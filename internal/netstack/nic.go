package netstack

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Link carries whole Ethernet frames, without their checksum, between this
// process and the guest's card. ReadFrame is called by one goroutine, WriteFrame
// by several; Close ends both.
type Link interface {
	// ReadFrame reads the next frame into p, which holds MaxFrame bytes.
	ReadFrame(p []byte) (int, error)
	// WriteFrame writes one frame, given in parts.
	WriteFrame(parts [][]byte) error
	io.Closer
}

const (
	// mtu is that of the wire: the largest that a packet of IPv4 fits in, as there
	// is nothing on the way that would cut it. The guest is told by the VMM.
	mtu = 65520
	// MaxFrame is the longest frame in bytes.
	MaxFrame = mtu + header.EthernetMinimumSize + 4 // a tag of a VLAN is refused later
)

// gatewayMAC is the address that everything the guest talks to has.
const gatewayMAC = tcpip.LinkAddress("\x52\x55\x0a\x00\x02\x02")

// nic is the stack's end of a link.
type nic struct {
	link  Link
	guest atomic.Value // tcpip.LinkAddress, that the guest's last frame came from

	closing    sync.Once
	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	tap        func(frame [][]byte) // sees every frame; may be nil
}

var _ stack.LinkEndpoint = (*nic)(nil)

func newNIC(link Link) *nic {
	e := &nic{link: link}
	e.guest.Store(header.EthernetBroadcastAddress)
	return e
}

// receive hands the guest's frames to the stack until the link ends.
func (e *nic) receive() error {
	frame := make([]byte, MaxFrame)
	for {
		size, err := e.link.ReadFrame(frame)
		if err != nil {
			return fmt.Errorf("read from the sandbox's network card: %w", err)
		}
		e.deliver(frame[:size])
	}
}

// deliver hands one frame to the stack. What is no frame, or not for this end,
// is dropped.
func (e *nic) deliver(frame []byte) {
	e.mu.RLock()
	dispatcher, tap := e.dispatcher, e.tap
	e.mu.RUnlock()
	if tap != nil {
		tap([][]byte{frame})
	}
	if len(frame) < header.EthernetMinimumSize || dispatcher == nil {
		return
	}
	to := header.Ethernet(frame).DestinationAddress()
	if to != gatewayMAC && to != header.EthernetBroadcastAddress && !header.IsMulticastEthernetAddress(to) {
		return
	}
	if from := header.Ethernet(frame).SourceAddress(); from != e.guest.Load() && !header.IsMulticastEthernetAddress(from) {
		e.guest.Store(from)
	}
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer packet.DecRef()
	if !e.ParseHeader(packet) {
		return
	}
	packet.PktType = tcpip.PacketHost
	if to != gatewayMAC {
		packet.PktType = tcpip.PacketBroadcast
	}
	dispatcher.DeliverNetworkPacket(header.Ethernet(packet.LinkHeader().Slice()).Type(), packet)
}

// WritePackets writes packets to the guest. A guest that does not take them
// holds up only its own connections.
func (e *nic) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	e.mu.RLock()
	tap := e.tap
	e.mu.RUnlock()
	for i, packet := range packets.AsSlice() {
		parts := packet.AsSlices()
		if tap != nil {
			tap(parts)
		}
		if err := e.link.WriteFrame(parts); err != nil {
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return packets.Len(), nil
}

// AddHeader puts the Ethernet header in front.
func (e *nic) AddHeader(packet *stack.PacketBuffer) {
	to := packet.EgressRoute.RemoteLinkAddress
	if to == "" {
		to = e.guest.Load().(tcpip.LinkAddress)
	}
	header.Ethernet(packet.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: gatewayMAC, DstAddr: to, Type: packet.NetworkProtocolNumber,
	})
}

// ParseHeader takes the Ethernet header off.
func (e *nic) ParseHeader(packet *stack.PacketBuffer) bool {
	_, ok := packet.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// Attach is called by the stack.
func (e *nic) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dispatcher = d
}

// IsAttached is called by the stack.
func (e *nic) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// watch lets f see every frame from now on; nil ends that.
func (e *nic) watch(f func([][]byte)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tap = f
}

// Close ends the link, and with it every call that waits for it.
func (e *nic) Close() { e.closing.Do(func() { _ = e.link.Close() }) }

// MTU is the wire's.
func (e *nic) MTU() uint32 { return mtu }

// SetMTU is not used.
func (e *nic) SetMTU(uint32) {}

// MaxHeaderLength is Ethernet's.
func (e *nic) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress is the gateway's.
func (e *nic) LinkAddress() tcpip.LinkAddress { return gatewayMAC }

// SetLinkAddress is not used.
func (e *nic) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities says that nobody's address has to be asked for: all packets go to
// the only one at the other end. Else those for guests that are not there would wait.
func (e *nic) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }

// Wait has nothing to wait for: Run owns the only goroutine.
func (e *nic) Wait() {}

// ARPHardwareType is Ethernet.
func (e *nic) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// SetOnCloseAction is not used.
func (e *nic) SetOnCloseAction(func()) {}
