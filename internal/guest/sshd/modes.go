//go:build linux

package sshd

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// errModes says that a client's terminal modes are cut short.
var errModes = errors.New("bad terminal modes")

// Opcodes with another meaning than a mode (RFC 4254, section 8).
const (
	opEnd        = 0
	opFirstSpeed = 128 // and 129: speeds, which a pseudo terminal has none of
	opFirstBad   = 160 // not to be sent; parsing stops
)

// controlChars maps an opcode to a place in Termios.Cc.
var controlChars = map[byte]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2,
	8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
}

// Flags by opcode: of input, of local modes, of output, of control.
var (
	inputFlags = map[byte]uint32{
		30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR, 35: unix.IGNCR,
		36: unix.ICRNL, 37: unix.IUCLC, 38: unix.IXON, 39: unix.IXANY, 40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8,
	}
	localFlags = map[byte]uint32{
		50: unix.ISIG, 51: unix.ICANON, 52: unix.XCASE, 53: unix.ECHO, 54: unix.ECHOE, 55: unix.ECHOK,
		56: unix.ECHONL, 57: unix.NOFLSH, 58: unix.TOSTOP, 59: unix.IEXTEN, 60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
	}
	outputFlags = map[byte]uint32{
		70: unix.OPOST, 71: unix.OLCUC, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET,
	}
	controlFlags = map[byte]uint32{92: unix.PARENB, 93: unix.PARODD}
)

// setModes applies the client's terminal modes to a fresh terminal, in UTF-8
// unless the client says otherwise.
func (p *pty) setModes(modes string) error {
	return p.control(func(fd int) error {
		termios, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		termios.Iflag |= unix.IUTF8
		if err := applyModes(termios, []byte(modes)); err != nil {
			return err
		}
		return unix.IoctlSetTermios(fd, unix.TCSETS, termios)
	})
}

// applyModes decodes pairs of an opcode and a 32-bit value.
func applyModes(t *unix.Termios, modes []byte) error {
	for len(modes) > 0 {
		op := modes[0]
		if op == opEnd || op >= opFirstBad {
			return nil
		}
		if len(modes) < 5 {
			return errModes
		}
		value := binary.BigEndian.Uint32(modes[1:])
		modes = modes[5:]
		if op >= opFirstSpeed {
			continue
		}
		if place, ok := controlChars[op]; ok {
			t.Cc[place] = controlChar(value)
			continue
		}
		setFlag(&t.Iflag, inputFlags[op], value)
		setFlag(&t.Lflag, localFlags[op], value)
		setFlag(&t.Oflag, outputFlags[op], value)
		setFlag(&t.Cflag, controlFlags[op], value)
	}
	return nil
}

// controlChar turns SSH's "disabled" (255) into Linux' (0).
func controlChar(value uint32) byte {
	if value >= 255 {
		return 0
	}
	return byte(value)
}

func setFlag(flags *uint32, flag, value uint32) {
	if value != 0 {
		*flags |= flag
	} else {
		*flags &^= flag
	}
}
