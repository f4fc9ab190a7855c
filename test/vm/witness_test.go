//go:build vm

package vm_test

import (
	bytesof "encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/test/cable"
)

// witness sees every packet that comes over the cable, whatever becomes of it.
type witness struct {
	mu   sync.Mutex
	seen map[string]int // "tcp 203.0.113.10:80"
	bad  []string       // packets to closed addresses, as they came
}

func newWitness(t *testing.T, n *internet) *witness {
	t.Helper()
	w := &witness{seen: map[string]int{}}
	var file *os.File
	n.at(t, func() error {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in the order of the network
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err != nil {
			return fmt.Errorf("watch the cable: %w", err)
		}
		file = os.NewFile(uintptr(fd), "cable")
		link, err := net.InterfaceByName(cable.Far)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	mine, err := n.address()
	if err != nil {
		t.Fatal(err)
	}
	n.running.Go(func() { w.watch(file, mine) })
	t.Cleanup(func() {
		_ = file.Close()
		n.running.Wait()
	})
	return w
}

// address is the one of the cable's end here.
func (n *internet) address() (net.HardwareAddr, error) {
	link, err := net.InterfaceByName(cable.Near)
	if err != nil {
		return nil, err
	}
	return link.HardwareAddr, nil
}

func (w *witness) watch(file *os.File, from net.HardwareAddr) {
	frame := make([]byte, 1<<17)
	for {
		size, err := file.Read(frame)
		if err != nil {
			return
		}
		if size > 34 && string(frame[6:12]) == string(from) {
			w.note(frame[12:size])
		}
	}
}

// note takes a packet with the type of its frame in front.
func (w *witness) note(p []byte) {
	kind, p := bytesof.BigEndian.Uint16(p), p[2:]
	var to netip.Addr
	var protocol byte
	switch {
	case kind == unix.ETH_P_IP:
		to, protocol = netip.AddrFrom4([4]byte(p[16:20])), p[9]
		p = p[min(len(p), int(p[0]&15)*4):]
	case kind == unix.ETH_P_IPV6 && len(p) >= 40:
		to, protocol = netip.AddrFrom16([16]byte(p[24:40])), p[6]
		p = p[40:]
	default:
		return
	}
	text := fmt.Sprintf("%d %s", protocol, to)
	if name := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[protocol]; name != "" && len(p) >= 4 {
		text = fmt.Sprintf("%s %s", name, netip.AddrPortFrom(to, bytesof.BigEndian.Uint16(p[2:])))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[text]++
	if egress.Closed(to) != "" && !housekeeping(to, protocol) {
		w.bad = append(w.bad, text)
	}
}

// housekeeping tells whether a packet is what a kernel sends by itself on a link:
// neighbours that are looked for, groups that are joined.
func housekeeping(to netip.Addr, protocol byte) bool {
	return to.Is6() && to.IsMulticast() && (protocol == unix.IPPROTO_ICMPV6 || protocol == 0) ||
		to.Is6() && to.IsLinkLocalUnicast() && protocol == unix.IPPROTO_ICMPV6 || protocol == unix.IPPROTO_IGMP
}

func (w *witness) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[text] > 0
}

// begin forgets what was seen.
func (w *witness) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.seen)
}

// beside is what was seen since begin, but for the places, what fences, and what
// kernels send by themselves.
func (w *witness) beside(places ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w.seen)), func(text string) bool {
		return slices.Contains(places, text) || strings.HasPrefix(text, "udp "+there4+":") || strings.HasPrefix(text, "58 ") || strings.HasPrefix(text, "0 ff02:")
	})
}

// strays are the packets to closed addresses since the last call.
func (w *witness) strays() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.bad)
	bad := slices.Compact(w.bad)
	w.bad = nil
	return bad
}
