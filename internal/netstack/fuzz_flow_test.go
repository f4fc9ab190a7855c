package netstack

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/smolvm/smolvm/internal/egress"
)

// templates keeps, of the frames that a guest sends, the last of each kind.
type templates struct {
	Link
	mu   sync.Mutex
	kept map[byte][]byte // protocol
}

func (l *templates) ReadFrame(p []byte) (int, error) {
	size, err := l.Link.ReadFrame(p)
	if size > 34 && binary.BigEndian.Uint16(p[12:]) == uint16(header.IPv4ProtocolNumber) {
		l.mu.Lock()
		l.kept[p[23]] = append([]byte(nil), p[:size]...)
		l.mu.Unlock()
	}
	return size, err
}

func (l *templates) of(protocol byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]byte(nil), l.kept[protocol]...)
}

// flowFuzz is a network and a guest that has a connection and a flow of datagrams.
type flowFuzz struct {
	*guest
	sent *templates
}

// newFlowFuzz makes one whose network may connect only to allowed addresses.
func newFlowFuzz(f *testing.F, policy egress.Policy, allowed func(netip.Addr) bool) flowFuzz {
	ours, theirs := newWire()
	sent := &templates{Link: ours, kept: map[byte][]byte{}}
	var running sync.WaitGroup
	n, err := New(sent, Config{
		Policy: policy, Now: time.Now, Own: nobody, Resolvers: func() []netip.AddrPort { return nil },
		Dial: func(_ context.Context, network, address string) (net.Conn, error) {
			if to := netip.MustParseAddrPort(address); !allowed(to.Addr()) || to.Port() != 80 && policy.Kind() == egress.Restricted {
				f.Errorf("%s %s was dialled", network, address)
			}
			near, far := net.Pipe()
			running.Go(func() {
				_, _ = io.Copy(io.Discard, far)
				_ = far.Close()
			})
			return near, nil
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	n.names.add(target4, "good.example", time.Hour)
	x := flowFuzz{&guest{link: theirs, network: n}, sent}
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			f.Error(err)
		}
	})
	x.boot(f, &running)
	f.Cleanup(func() {
		if conn, err := x.tcp(f, target4.String()+":80"); err != nil {
			f.Errorf("the network does not work any more: %v", err)
		} else {
			_ = conn.Close()
		}
		cancel()
		running.Wait()
		x.stack.Destroy()
	})
	return x
}

// begin makes the connection and the flow, where they have ended.
func (x flowFuzz) begin(t *testing.T) {
	t.Helper()
	if x.network.flows.count(egress.TCP) == 0 {
		conn, err := x.tcp(t, target4.String()+":80")
		if err != nil {
			t.Skip(err) // the bound of what may begin in a second
		}
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: ")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	if x.network.flows.count(egress.UDP) == 0 {
		if _, err := x.udp(t, target4.String()+":80").Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzFlows changes segments of a connection, and datagrams of a flow, that a
// network in each mode has. The sums are made right again, so that what is judged
// is what the frame says.
func FuzzFlows(f *testing.F) {
	public := func(a netip.Addr) bool { return egress.Closed(a) == "" }
	rule, err := egress.ParseRule("good.example:80")
	if err != nil {
		f.Fatal(err)
	}
	modes := []flowFuzz{
		newFlowFuzz(f, egress.Policy{}, public),
		newFlowFuzz(f, egress.Policy{Mode: egress.Restricted, Allow: []egress.Rule{rule}}, func(a netip.Addr) bool { return a == target4 }),
	}
	f.Add(byte(0), []byte{})
	f.Add(byte(1), make([]byte, 60))
	f.Add(byte(2), []byte{0x10})
	for flag := byte(1); flag < 0x40; flag <<= 1 { // FIN, SYN, RST, PSH, ACK, URG
		f.Add(byte(flag&1), append(make([]byte, 33), flag))
	}
	private := append(make([]byte, 16), 203^10, 0, 113, 7^5) // to 10.0.0.5
	f.Add(byte(0), private)
	f.Add(byte(3), private)
	f.Fuzz(func(t *testing.T, kind byte, change []byte) {
		x := modes[kind&1]
		x.begin(t)
		protocol := []byte{6, 17}[kind>>1&1]
		frame := x.sent.of(protocol)
		if len(change) > 4096 || len(frame) == 0 {
			return
		}
		for i, b := range change {
			if at := header.EthernetMinimumSize + i; at < len(frame) {
				frame[at] ^= b
			} else {
				frame = append(frame, b)
			}
		}
		summed(frame)
		x.network.nic.deliver(frame)
	})
}

// summed makes the checksums of a frame right, as far as it has such.
func summed(frame []byte) {
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	size := int(ip[0]&0xf) * 4
	if size < header.IPv4MinimumSize || size > len(ip) {
		return
	}
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	payload := ip[size:]
	pseudo := header.PseudoHeaderChecksum(ip.TransportProtocol(), ip.SourceAddress(), ip.DestinationAddress(), uint16(len(payload)))
	switch at := map[uint8]int{6: header.TCPChecksumOffset, 17: 6}[ip.Protocol()]; {
	case at > 0 && at+2 <= len(payload):
		copy(payload[at:], []byte{0, 0})
		binary.BigEndian.PutUint16(payload[at:], ^checksum.Checksum(payload, pseudo))
	}
}
