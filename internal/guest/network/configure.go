//go:build linux

package network

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// plan is one interface's settings, checked.
type plan struct {
	pattern   string
	mtu       int // 0: as it is
	addresses []netip.Prefix
	routes    []route
}

type route struct {
	to  netip.Prefix
	via netip.Addr
}

// Patterns are the interface name patterns that the configuration expects.
func Patterns(config wire.NetworkConfig) []string {
	var patterns []string
	for _, name := range slices.Sorted(maps.Keys(config.Ethernets)) {
		patterns = append(patterns, cmp.Or(config.Ethernets[name].Match.Name, name))
	}
	return patterns
}

// Present reports whether every pattern has an interface.
func Present(config wire.NetworkConfig) (bool, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return false, fmt.Errorf("list network interfaces: %w", err)
	}
	for _, pattern := range Patterns(config) {
		if find(interfaces, pattern) == nil {
			return false, nil
		}
	}
	return true, nil
}

func find(interfaces []net.Interface, pattern string) *net.Interface {
	for i := range interfaces {
		if matched, _ := path.Match(pattern, interfaces[i].Name); matched && interfaces[i].Flags&net.FlagLoopback == 0 {
			return &interfaces[i]
		}
	}
	return nil
}

// Loopback sets the loopback interface up; the kernel gives it its addresses.
func Loopback() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.request(linkUp(c.next(), lo.Index, 0)); err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	return nil
}

// AllowPing lets every user send pings, as distributions do.
func AllowPing() error {
	const everyone = "0 2147483647"
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(everyone), 0o644); err != nil {
		return fmt.Errorf("allow ping: %w", err)
	}
	return nil
}

// Configure applies the configuration to the interfaces that match.
func Configure(config wire.NetworkConfig) error {
	plans, err := newPlans(config)
	if err != nil {
		return err
	}
	if _, err := os.Stat("/proc/net/if_inet6"); errors.Is(err, fs.ErrNotExist) {
		plans = withoutIPv6(plans)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	for _, p := range plans {
		card := find(interfaces, p.pattern)
		if card == nil {
			return fmt.Errorf("there is no network interface %s", p.pattern)
		}
		if err := p.apply(c, card.Index); err != nil {
			return fmt.Errorf("configure %s: %w", card.Name, err)
		}
	}
	return nil
}

func (p plan) apply(c *conn, index int) error {
	for _, address := range p.addresses {
		if err := c.request(addAddress(c.next(), index, address)); err != nil {
			return fmt.Errorf("add address %s: %w", address, err)
		}
	}
	if err := c.request(linkUp(c.next(), index, p.mtu)); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, r := range p.routes {
		if err := c.request(addRoute(c.next(), index, r.to, r.via)); err != nil {
			return fmt.Errorf("add route to %s via %s: %w", r.to, r.via, err)
		}
	}
	return nil
}

// withoutIPv6 leaves out what a kernel without IPv6 cannot have.
func withoutIPv6(plans []plan) []plan {
	for i := range plans {
		p := &plans[i]
		p.addresses = slices.DeleteFunc(p.addresses, func(a netip.Prefix) bool { return a.Addr().Is6() })
		p.routes = slices.DeleteFunc(p.routes, func(r route) bool { return r.via.Is6() })
	}
	return plans
}

func newPlans(config wire.NetworkConfig) ([]plan, error) {
	if config.Version != 0 && config.Version != 2 {
		return nil, fmt.Errorf("network configuration has version %d, want 2", config.Version)
	}
	var plans []plan
	for _, name := range slices.Sorted(maps.Keys(config.Ethernets)) {
		p, err := newPlan(name, config.Ethernets[name])
		if err != nil {
			return nil, fmt.Errorf("network configuration of %s: %w", name, err)
		}
		plans = append(plans, p)
	}
	return plans, nil
}

func newPlan(name string, card wire.Ethernet) (plan, error) {
	p := plan{pattern: cmp.Or(card.Match.Name, name), mtu: card.MTU}
	if card.DHCP4 {
		return p, errors.New("DHCP is not supported")
	}
	if _, err := path.Match(p.pattern, ""); err != nil {
		return p, fmt.Errorf("pattern %q: %w", p.pattern, err)
	}
	for _, text := range card.Addresses {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return p, fmt.Errorf("address: %w", err)
		}
		p.addresses = append(p.addresses, prefix)
	}
	for _, r := range card.Routes {
		parsed, err := parseRoute(r)
		if err != nil {
			return p, fmt.Errorf("route: %w", err)
		}
		p.routes = append(p.routes, parsed)
	}
	return p, nil
}

func parseRoute(r wire.Route) (route, error) {
	via, err := netip.ParseAddr(r.Via)
	if err != nil {
		return route{}, err
	}
	if r.To == "default" {
		unspecified := netip.IPv4Unspecified()
		if via.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		return route{netip.PrefixFrom(unspecified, 0), via}, nil
	}
	to, err := netip.ParsePrefix(r.To)
	if err != nil {
		return route{}, err
	}
	if to.Addr().Is4() != via.Is4() {
		return route{}, fmt.Errorf("%s and its gateway %s are of two families", to, via)
	}
	return route{to, via}, nil
}

// conn is a routing socket.
type conn struct {
	fd       int
	sequence uint32
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open routing socket: %w", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

func (c *conn) next() uint32 {
	c.sequence++
	return c.sequence
}

// request sends one message and waits for its acknowledgement, which the kernel
// queues before the send returns.
func (c *conn) request(message []byte) error {
	if err := unix.Sendto(c.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(c.fd, buf, 0)
	if err != nil {
		return err
	}
	return acknowledgement(buf[:n], native.Uint32(message[8:]))
}

// acknowledgement reads the answer to a request. That the thing is there
// already is fine.
func acknowledgement(answer []byte, sequence uint32) error {
	if len(answer) < unix.SizeofNlMsghdr+4 {
		return errors.New("short answer from the kernel")
	}
	kind, got := native.Uint16(answer[4:]), native.Uint32(answer[8:])
	if kind != unix.NLMSG_ERROR || got != sequence {
		return fmt.Errorf("unexpected answer from the kernel: type %d, number %d", kind, got)
	}
	code := unix.Errno(-int32(native.Uint32(answer[unix.SizeofNlMsghdr:])))
	if code == 0 || code == unix.EEXIST {
		return nil
	}
	return code
}
