package fetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
)

// maxRedirects is what download sites need at most: a shortener, a mirror choice,
// an object store.
const maxRedirects = 5

// redirectError is a redirect that is not followed.
type redirectError struct{ reason string }

func (e *redirectError) Error() string { return e.reason }

func refuse(format string, args ...any) error {
	return &redirectError{fmt.Sprintf(format, args...)}
}

// checkRedirect bounds redirects and refuses those that would lose a guarantee:
// from TLS to none, and from elsewhere into this computer or its network.
func checkRedirect(next *http.Request, via []*http.Request) error {
	from, to := via[len(via)-1].URL, next.URL
	switch {
	case len(via) > maxRedirects:
		return refuse("more than %d redirects", maxRedirects)
	case to.Scheme != "https" && to.Scheme != "http":
		return refuse("redirect to %s refused", to.Redacted())
	case from.Scheme == "https" && to.Scheme != "https":
		return refuse("redirect from https to %s refused", to.Redacted())
	case isInside(to.Hostname()) && !isInside(via[0].URL.Hostname()):
		return refuse("redirect into the local network (%s) refused", to.Redacted())
	}
	trailOf(next.Context()).lead(to)
	return nil
}

// isInside recognizes this computer and private networks by address. What a name
// resolves to is seen when it is dialled.
func isInside(host string) bool {
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && isInsideIP(ip)
}

func isInsideIP(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() || shared.Contains(ip)
}

// shared is the address space behind carriers' and overlay networks' NAT (RFC 6598).
var shared = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)

// trail is where the redirects of one request led.
type trail struct {
	mu      sync.Mutex
	first   netip.Addr // whom the request went to; a proxy counts
	targets map[string]bool
}

type trailKey struct{}

func withTrail(ctx context.Context) context.Context {
	t := &trail{targets: map[string]bool{}}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { t.met(info.Conn) }})
	return context.WithValue(ctx, trailKey{}, t)
}

// trailOf is nil for a request that is nobody's.
func trailOf(ctx context.Context) *trail {
	t, _ := ctx.Value(trailKey{}).(*trail)
	return t
}

// met remembers the first peer.
func (t *trail) met(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.first.IsValid() {
		t.first = peerOf(c)
	}
}

// lead remembers that a redirect led to a host.
func (t *trail) lead(to *url.URL) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	port := to.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[to.Scheme]
	}
	t.targets[net.JoinHostPort(to.Hostname(), port)] = true
}

// astray is whether a redirect from outside led to a name that turns out to be
// inside. What is dialled for a proxy is not a redirect's target.
func (t *trail) astray(address string, c net.Conn) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	peer := peerOf(c)
	return t.targets[address] && t.first.IsValid() && !isInsideIP(t.first) && peer.IsValid() && isInsideIP(peer)
}

func peerOf(c net.Conn) netip.Addr {
	peer, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return peer.Addr().WithZone("")
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// guarded closes a connection that no redirect may lead to, before anything is
// said over it.
func guarded(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err == nil && trailOf(ctx).astray(address, c) {
			c.Close()
			return nil, refuse("redirect into the local network (%s is %s) refused", address, peerOf(c))
		}
		return c, err
	}
}
