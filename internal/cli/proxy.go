package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/host"
)

// lookupLimit is how long the name of a proxy may take to be looked up.
const lookupLimit = 3 * time.Second

// closedProxy is a proxy of this computer that a sandbox does not reach.
type closedProxy struct {
	shown string // its address, without password
	why   string
	flag  string // of start, that opens it
}

func (p closedProxy) String() string {
	return fmt.Sprintf("The proxy %s is closed to the sandbox, as %s: start it with %s.", p.shown, p.why, p.flag)
}

// buildPolicy is that of the sandbox in which the image of a sandbox is built: it has to
// reach registries, whatever the other may, and what was opened for that one.
func buildPolicy(p egress.Policy) egress.Policy {
	return egress.Policy{Rate: p.Rate}.Allowing(p.Allow...)
}

// blameProxy adds to a build's failure that this computer's proxy is closed to the
// sandbox that builds, where that may be the cause.
func (a *App) blameProxy(ctx context.Context, failed error, policy egress.Policy) error {
	c, err := a.Config()
	if fault.CodeOf(failed) != fault.Network || err != nil {
		return failed
	}
	for _, line := range c.WithheldEnv(policy) {
		return fault.New(fault.Network, fault.HintOf(failed), "%w; %s", failed, line)
	}
	for _, p := range a.closedProxies(ctx, c, policy, lookUp) {
		return fault.New(fault.Network, "Add "+p.flag+".", "%w; the proxy %s is closed to the sandbox that builds, as %s", failed, p.shown, p.why)
	}
	return failed
}

// addressesOf gives the addresses of a name.
type addressesOf func(ctx context.Context, name string) ([]netip.Addr, error)

func lookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
}

// closedProxies are the proxies that the host's variables name and that a sandbox
// with the policy would be given, and does not reach. One whose name cannot be
// looked up is none: nothing can be said of it.
func (a *App) closedProxies(ctx context.Context, c config.Config, policy egress.Policy, addresses addressesOf) []closedProxy {
	own := &host.Addresses{Now: a.Now}
	var all []closedProxy
	for name, value := range c.SessionEnv(policy) {
		if strings.EqualFold(name, "no_proxy") {
			continue
		}
		if p, closed := judgeProxy(ctx, value, policy, own.Own, addresses); closed && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(x, y closedProxy) int { return strings.Compare(x.shown, y.shown) })
	return all
}

// judgeProxy tells whether the proxy of a variable is closed: none of its addresses
// is allowed.
func judgeProxy(ctx context.Context, value string, policy egress.Policy, own func(netip.Addr) bool, addresses addressesOf) (p closedProxy, closed bool) {
	u, err := config.ProxyURL(value)
	if err != nil || u.Hostname() == egress.HostName || policy.Kind() == egress.Off {
		return p, false
	}
	all, names := []netip.Addr{}, []string{}
	if literal, err := netip.ParseAddr(u.Hostname()); err == nil {
		all = append(all, literal)
	} else if all, err = addresses(ctx, u.Hostname()); err == nil {
		names = append(names, egress.Canonical(u.Hostname()))
	}
	for _, address := range all {
		to := netip.AddrPortFrom(egress.Plain(address), config.ProxyPort(u))
		v := policy.Decide(egress.Connection{Protocol: egress.TCP, To: to, Names: names, Own: own(to.Addr())})
		switch {
		case v.Allowed:
			return closedProxy{}, false
		case !closed && v.Rule != "":
			p, closed = closedProxy{fetch.Shown(value), v.Reason, "--allow " + v.Rule}, true
		}
	}
	return p, closed
}
