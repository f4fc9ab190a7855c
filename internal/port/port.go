// Package port describes the TCP ports of a sandbox that this computer forwards:
// as values, as users write them, and as they are shown. Nothing is kept on disk.
package port

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Forward leads a port of this computer to one in the sandbox.
type Forward struct {
	// Address is the one of this computer that listens; empty: its loopback,
	// 127.0.0.1 and ::1.
	Address string `json:"address,omitempty"`
	Host    int    `json:"host,omitempty"` // port of this computer; 0: not chosen yet
	Guest   int    `json:"guest"`          // port in the sandbox
	// Any says that another port of this computer will do where Host is taken.
	Any bool `json:"any,omitempty"`
}

// maxPort is the highest port of TCP.
const maxPort = 1<<16 - 1

// Parse reads [[ADDRESS:]HOST:]GUEST. Without HOST the same number is preferred,
// 0 is any that is free.
func Parse(text string) (Forward, error) {
	words := split(strings.TrimSuffix(text, "/tcp"))
	if len(words) > 3 {
		return Forward{}, fmt.Errorf("port %.60q has too many parts", text)
	}
	f := Forward{Any: true}
	var err error
	if f.Guest, err = number(words[len(words)-1], 1); err != nil {
		return Forward{}, fmt.Errorf("port %.60q: %w", text, err)
	}
	f.Host = f.Guest
	if len(words) > 1 && words[len(words)-2] != "" {
		if f.Host, err = number(words[len(words)-2], 0); err != nil {
			return Forward{}, fmt.Errorf("port %.60q: %w", text, err)
		}
		f.Any = f.Host == 0
	}
	if len(words) == 3 {
		f.Address, err = address(words[0])
	}
	if err != nil {
		return Forward{}, fmt.Errorf("port %.60q: %w", text, err)
	}
	return f, nil
}

// split cuts at the colons outside of brackets.
func split(text string) []string {
	if end := strings.LastIndex(text, "]"); end >= 0 {
		return append([]string{text[:end+1]}, strings.Split(strings.TrimPrefix(text[end+1:], ":"), ":")...)
	}
	return strings.Split(text, ":")
}

func number(word string, least int) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < least || n > maxPort || strings.HasPrefix(word, "+") {
		return 0, fmt.Errorf("%.20q is no TCP port", word)
	}
	return n, nil
}

// address is an IP address; the loopback's names are the default.
func address(word string) (string, error) {
	switch word {
	case "", "localhost":
		return "", nil
	}
	ip, err := netip.ParseAddr(strings.Trim(word, "[]"))
	if err != nil {
		return "", fmt.Errorf("%.40q is no address of this computer", word)
	}
	return ip.String(), nil
}

// Valid refuses values that Parse does not give.
func (f Forward) Valid() bool {
	if _, err := address(f.Address); err != nil {
		return false
	}
	return f.Guest >= 1 && f.Guest <= maxPort && f.Host >= 0 && f.Host <= maxPort && (f.Host > 0 || f.Any)
}

// Addresses are what listens, in order.
func (f Forward) Addresses() []string {
	if f.Address != "" {
		return []string{f.Address}
	}
	return []string{"127.0.0.1", "::1"}
}

// Listens is the address to be used on this computer.
func (f Forward) Listens() string {
	return net.JoinHostPort(f.Addresses()[0], strconv.Itoa(f.Host))
}

// Public tells whether others than this computer reach it.
func (f Forward) Public() bool {
	ip, err := netip.ParseAddr(f.Address)
	return err == nil && !ip.IsLoopback()
}

// String is ADDRESS:HOST:GUEST, as Parse reads it.
func (f Forward) String() string {
	return fmt.Sprintf("%s:%d", f.Listens(), f.Guest)
}

// Same tells whether two lead from the same port of this computer to the same one
// in the sandbox.
func (f Forward) Same(g Forward) bool {
	return f.Address == g.Address && f.Host == g.Host && f.Guest == g.Guest
}

// Meets tells whether both cannot listen at once.
func (f Forward) Meets(g Forward) bool {
	return f.Host == g.Host && f.Host != 0 && (f.Address == g.Address || f.wild() || g.wild() || f.within(g) || g.within(f))
}

func (f Forward) wild() bool {
	ip, err := netip.ParseAddr(f.Address)
	return err == nil && ip.IsUnspecified()
}

// within tells whether g has the address of f among its own.
func (f Forward) within(g Forward) bool {
	for _, a := range g.Addresses() {
		if f.Address == a {
			return true
		}
	}
	return false
}
