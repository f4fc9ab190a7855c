//go:build vm

package vm_test

import (
	bytesof "encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// resolver is the one that this computer asks: it knows a few names.
type resolver struct {
	mu    sync.Mutex
	names map[string][]string // addresses
	asked map[string]int
}

func newResolver(t *testing.T, n *internet) *resolver {
	t.Helper()
	r := &resolver{asked: map[string]int{}, names: map[string][]string{
		"good.example": {good4, good6}, "bad.example": {good4, good6}, "other.example": {other4}, "six.example": {good6},
		"deep.good.example": {good4}, "rebind.good.example": {"10.0.0.5", "169.254.169.254", "fd00:ec2::254", "::ffff:10.0.0.5"},
		"home.good.example": {here4, herePrivate4, "127.0.0.1", here6}, "rebind.example": {"10.0.0.5"},
		"tunnel.good.example": {"64:ff9b::a00:5", "2002:a00:5::5"},
	}}
	for _, at := range []string{resolver4, resolver6} {
		var conn net.PacketConn
		n.at(t, func() (err error) {
			conn, err = net.ListenPacket("udp", net.JoinHostPort(at, "53"))
			return err
		})
		n.running.Go(func() { r.serve(conn) })
		t.Cleanup(func() { _ = conn.Close() })
	}
	return r
}

func (r *resolver) serve(conn net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer := r.answer(buf[:size]); answer != nil {
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

// set gives a name other addresses.
func (r *resolver) set(name string, addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[name] = addresses
}

// count tells how often a name was asked for.
func (r *resolver) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[name]
}

const questionA, questionAAAA = 1, 28

// answer answers one question; one that is none is not answered.
func (r *resolver) answer(query []byte) []byte {
	if len(query) < 17 {
		return nil
	}
	var labels []string
	at := 12
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end >= len(query) {
			return nil
		}
		labels = append(labels, string(query[at+1:end]))
		at = end
	}
	if at+5 > len(query) {
		return nil
	}
	name, kind := strings.ToLower(strings.Join(labels, ".")), bytesof.BigEndian.Uint16(query[at+1:])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[name]++
	addresses, known := r.names[name]
	m := append([]byte(nil), query[:at+5]...)
	copy(m[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
	if !known {
		m[3] |= 3
		return m
	}
	for _, text := range addresses {
		if a := netip.MustParseAddr(text); a.Is4() && kind == questionA || a.Is6() && kind == questionAAAA {
			m[7]++
			m = append(m, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(a.BitLen()/8))
			m = append(m, a.AsSlice()...)
		}
	}
	return m
}
