//go:build linux

// Package network sets up the machine's interfaces from the seed's network
// configuration, by rtnetlink and without any program of the image: addresses
// and routes are static, so a boot needs no DHCP exchange.
//
// What it sets lives in the kernel only and is gone with the machine.
package network

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// message builds one rtnetlink request.
type message struct{ buf []byte }

var native = binary.NativeEndian

// newMessage begins a request that asks for an acknowledgement. Its length is
// set by bytes.
func newMessage(kind, flags uint16, sequence uint32) *message {
	m := &message{make([]byte, unix.SizeofNlMsghdr, 128)}
	native.PutUint16(m.buf[4:], kind)
	native.PutUint16(m.buf[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	native.PutUint32(m.buf[8:], sequence)
	return m
}

// attribute appends one attribute, padded to four bytes.
func (m *message) attribute(kind uint16, value []byte) {
	m.buf = native.AppendUint16(m.buf, uint16(unix.SizeofRtAttr+len(value)))
	m.buf = native.AppendUint16(m.buf, kind)
	m.buf = append(m.buf, value...)
	for len(m.buf)%4 != 0 {
		m.buf = append(m.buf, 0)
	}
}

func (m *message) bytes() []byte {
	native.PutUint32(m.buf, uint32(len(m.buf)))
	return m.buf
}

// linkUp asks to set an interface up, with packets of so many bytes; 0: as it is.
func linkUp(sequence uint32, index, mtu int) []byte {
	m := newMessage(unix.RTM_NEWLINK, 0, sequence)
	info := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(info[4:], uint32(index))
	native.PutUint32(info[8:], unix.IFF_UP)
	native.PutUint32(info[12:], unix.IFF_UP) // the flags to change
	m.buf = append(m.buf, info...)
	if mtu > 0 {
		m.attribute(unix.IFLA_MTU, native.AppendUint32(nil, uint32(mtu)))
	}
	return m.bytes()
}

// addAddress asks to give an interface an address.
func addAddress(sequence uint32, index int, prefix netip.Prefix) []byte {
	m := newMessage(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, sequence)
	m.buf = append(m.buf, family(prefix.Addr()), byte(prefix.Bits()), unix.IFA_F_PERMANENT, unix.RT_SCOPE_UNIVERSE)
	m.buf = native.AppendUint32(m.buf, uint32(index))
	addr := prefix.Addr().AsSlice()
	m.attribute(unix.IFA_LOCAL, addr)
	m.attribute(unix.IFA_ADDRESS, addr)
	if prefix.Addr().Is6() {
		// Nobody else is on this wire, so there is nothing to detect.
		m.attribute(unix.IFA_FLAGS, native.AppendUint32(nil, unix.IFA_F_NODAD|unix.IFA_F_PERMANENT))
	}
	return m.bytes()
}

// addRoute asks for a route through a gateway on an interface; an empty prefix
// is the default route.
func addRoute(sequence uint32, index int, to netip.Prefix, via netip.Addr) []byte {
	m := newMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, sequence)
	m.buf = append(m.buf,
		family(via), byte(to.Bits()), 0, 0, // family, length of destination, of source, tos
		unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	m.buf = native.AppendUint32(m.buf, 0)
	if to.Bits() > 0 {
		m.attribute(unix.RTA_DST, to.Masked().Addr().AsSlice())
	}
	m.attribute(unix.RTA_GATEWAY, via.AsSlice())
	m.attribute(unix.RTA_OIF, native.AppendUint32(nil, uint32(index)))
	return m.bytes()
}

func family(addr netip.Addr) byte {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
