//go:build vm

package vm_test

import (
	bytesof "encoding/binary"
	"encoding/hex"
	"net/netip"
)

// Frames that no kernel would send, as a hostile guest does.

const (
	kind4, kind6 = 0x0800, 0x86dd
	six, udp17   = 6, 17 // TCP and UDP
)

// sent is a try that sends a frame to the gateway.
func sent(kind uint16, packet []byte) try {
	frame := append([]byte("\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56"), byte(kind>>8), byte(kind))
	return try{Kind: "frame", Hex: hex.EncodeToString(append(frame, packet...))}
}

// onesSum is the checksum of the internet.
func onesSum(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for i, b := range p {
			sum += uint32(b) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// syn is a TCP segment that opens a connection, with its checksum.
func syn(from, to netip.Addr, port uint16) []byte {
	s := []byte{0x9c, 0x40, byte(port >> 8), byte(port), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	bytesof.BigEndian.PutUint16(s[16:], onesSum(pseudo, []byte{0, six, 0, byte(len(s))}, s))
	return s
}

// packet4 is a packet of IPv4; options come in fours.
func packet4(from, to netip.Addr, protocol byte, fragment uint16, options, payload []byte) []byte {
	h := make([]byte, 20, 60)
	h[0], h[8], h[9] = 0x45+byte(len(options)/4), 64, protocol
	bytesof.BigEndian.PutUint16(h[2:], uint16(20+len(options)+len(payload)))
	h[4], h[5] = 7, byte(protocol)
	bytesof.BigEndian.PutUint16(h[6:], fragment)
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	h = append(h, options...)
	bytesof.BigEndian.PutUint16(h[10:], onesSum(h))
	return append(h, payload...)
}

// packet6 is a packet of IPv6.
func packet6(from, to netip.Addr, next byte, payload []byte) []byte {
	h := append([]byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, 64}, from.AsSlice()...)
	return append(append(h, to.AsSlice()...), payload...)
}

// hostileFrames all try to reach what is closed, or to confuse who judges them.
func hostileFrames() []try {
	guest4, guest6 := netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("fd5a:6d6f:6c76::15")
	good, private := netip.MustParseAddr(good4), netip.MustParseAddr("10.0.0.5")
	var all []try
	for _, text := range []string{
		"10.0.0.5", "127.0.0.1", "0.0.0.0", "10.0.2.255", "169.254.169.254", here4, herePrivate4, "224.0.0.251", "255.255.255.255", "240.0.0.5",
	} {
		to := netip.MustParseAddr(text)
		all = append(all, sent(kind4, packet4(guest4, to, six, 0, nil, syn(guest4, to, 80))),
			sent(kind4, packet4(guest4, to, udp17, 0, nil, []byte{0x9c, 0x40, 0, 80, 0, 8, 0, 0})),
			sent(kind4, packet4(guest4, to, 1, 0, nil, []byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1})), // a ping
			sent(kind4, packet4(guest4, to, 47, 0, nil, []byte{0, 0, 8, 0})))                  // a tunnel
	}
	for _, text := range []string{"::ffff:10.0.0.5", "::ffff:127.0.0.1", "::10.0.0.5", "::1", "::", "64:ff9b::a00:5", "2002:a00:5::5", "ff02::1", "fe80::1", here6} {
		to := netip.MustParseAddr(text)
		segment := syn(guest6, to, 80)
		all = append(all, sent(kind6, packet6(guest6, to, six, segment)),
			sent(kind6, packet6(guest6, to, 0, append([]byte{six, 0, 1, 4, 0, 0, 0, 0}, segment...))),                           // options first
			sent(kind6, packet6(guest6, to, 44, append([]byte{six, 0, 0, 1, 0, 0, 0, 9}, segment[:16]...))),                     // a piece
			sent(kind6, packet6(guest6, to, 43, append([]byte{six, 2, 0, 1, 0, 0, 0, 0}, append(to.AsSlice(), segment...)...)))) // a route
	}
	route := append([]byte{131, 7, 4}, append(private.AsSlice(), 0)...) // loose source route
	whole := syn(guest4, good, 81)
	evil := syn(guest4, good, 80)
	all = append(all,
		sent(kind4, packet4(guest4, good, six, 0, route, syn(guest4, good, 80))),
		// A connection in pieces that overlap: the first piece comes twice, with another port.
		sent(kind4, packet4(guest4, good, six, 0x2000, nil, whole[:16])), sent(kind4, packet4(guest4, good, six, 0x2000, nil, evil[:16])),
		sent(kind4, packet4(guest4, good, six, 2, nil, whole[16:])),
		sent(kind4, packet4(guest4, private, six, 0x2000, nil, whole[:8])), sent(kind4, packet4(guest4, private, six, 1, nil, whole[8:])),
		sent(kind4, packet4(guest4, good, udp17, 0x1fff, nil, make([]byte, 1400))), // behind the end of all packets
		sent(kind4, packet4(private, good, six, 0, nil, syn(private, good, 80))),   // from somebody else
		sent(kind4, packet4(netip.MustParseAddr("127.0.0.1"), private, six, 0, nil, whole)),
		sent(kind4, []byte{0x4f, 0, 0xff, 0xff}), sent(kind4, []byte{0x45}), sent(kind6, []byte{0x60}), sent(kind4, nil),
		sent(kind4, packet4(guest4, good, six, 0, nil, []byte{0x9c, 0x40, 0, 80})), sent(0x8100, []byte{0, 1, 8, 0}), sent(0x0806, make([]byte, 28)),
	)
	return all
}
