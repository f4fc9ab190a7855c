package escrow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	headerTime  = 30 * time.Second // for a request's headers
	idleTime    = 5 * time.Minute  // of a connection without a request
	maxHeader   = 64 << 10         // bytes
	maxUpstream = 16               // connections to a host for one of the guest's
	maxTaken    = 48               // of the guest's at a time; more are closed
	maxStreams  = 64               // requests of one connection at a time
)

// Config is what a Proxy is made of.
type Config struct {
	Secrets []Secret
	Roots   *x509.CertPool // that a host's certificate has to come from
	Now     func() time.Time
	Log     func(msg string, args ...any)
}

// target is a host and port of a rule.
type target struct {
	host string
	port uint16
}

// Proxy speaks for a guest to the hosts of its secrets' rules.
type Proxy struct {
	Config
	secrets   []Secret
	targets   map[target]bool
	authority *authority
	veil      *veil
	server    *http.Server
	conns     chan net.Conn
	slots     chan struct{} // one for each connection
	over      chan struct{}
}

// New makes a proxy. It works while Run does.
func New(c Config) (*Proxy, error) {
	p := &Proxy{
		Config: c, secrets: c.Secrets, targets: map[target]bool{}, veil: newVeil(c.Secrets),
		conns: make(chan net.Conn), slots: make(chan struct{}, maxTaken), over: make(chan struct{}),
	}
	var hosts []string
	for _, s := range c.Secrets {
		for _, rule := range s.Rules {
			p.targets[target{rule.Host, rule.Port}] = true
			if !slices.Contains(hosts, rule.Host) {
				hosts = append(hosts, rule.Host)
			}
		}
	}
	var err error
	if p.authority, err = newAuthority(hosts, c.Now); err != nil {
		return nil, err
	}
	p.server = &http.Server{
		HTTP2:             buffers(),
		Handler:           http.HandlerFunc(p.serve),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: p.certificate},
		ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(panics{p}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, takenOf(c))
		},
	}
	return p, nil
}

// buffers bound what one connection with many requests holds.
func buffers() *http.HTTP2Config {
	return &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: 512 << 10, MaxReceiveBufferPerStream: 128 << 10}
}

// Certificate is that of the authority, in PEM. The guest has to trust it, and
// nobody else.
func (p *Proxy) Certificate() []byte { return p.authority.pem() }

// Wants tells whether a connection to a port of a named host is the proxy's.
func (p *Proxy) Wants(name string, port uint16) bool { return p.targets[target{name, port}] }

// Run serves until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() })
	defer stop()
	defer close(p.over)
	if err := p.server.ServeTLS(&listener{p.conns, ctx.Done()}, "", ""); ctx.Err() == nil {
		return fmt.Errorf("run the credential proxy: %w", err)
	}
	return nil
}

// Take serves a connection of the guest to its end. Dial makes a connection to
// where the guest wanted to, if it may go there.
func (p *Proxy) Take(guest net.Conn, name string, port uint16, dial func(context.Context) (net.Conn, error)) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	default:
		_ = guest.Close()
		return
	}
	c := &taken{Conn: guest, target: target{name, port}, done: make(chan struct{})}
	c.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.Roots, ServerName: name, Time: p.Now},
		TLSHandshakeTimeout: headerTime, MaxConnsPerHost: maxUpstream, IdleConnTimeout: idleTime,
		ForceAttemptHTTP2: true, DisableCompression: true, HTTP2: buffers(),
	}
	defer c.transport.CloseIdleConnections()
	select {
	case p.conns <- c:
		<-c.done
		c.serving.Wait()
	case <-p.over:
		_ = c.Close()
	}
}

// certificate is the one for the host that the connection is for.
func (p *Proxy) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := takenOf(hello.Conn)
	if c == nil || !strings.EqualFold(hello.ServerName, c.target.host) {
		return nil, errors.New("the connection is for another host")
	}
	return p.authority.leaf(c.target.host)
}

// serve passes a request on.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	c, _ := r.Context().Value(connKey{}).(*taken)
	if c != nil {
		c.serving.Add(1)
		defer c.serving.Done()
	}
	switch {
	case c == nil || !c.target.named(r.Host):
		http.Error(w, "smolvm: this connection is for another host", http.StatusMisdirectedRequest)
		return
	case r.Method == http.MethodConnect:
		http.Error(w, "smolvm: CONNECT is not passed on", http.StatusMethodNotAllowed)
		return
	}
	fields, err := p.putFields(r, c.target)
	if err != nil {
		http.Error(w, "smolvm: the request's body could not be read", http.StatusBadRequest)
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { p.rewrite(r, c.target, fields) },
		Transport:      c.transport,
		FlushInterval:  -1, // at once
		ErrorLog:       log.New(io.Discard, "", 0),
		ModifyResponse: p.answer,
		ErrorHandler:   p.failed,
	}
	proxy.ServeHTTP(covered{w, p.veil}, r)
}

// named tells whether a request's host is this one.
func (t target) named(host string) bool {
	port := "443"
	if h, given, err := net.SplitHostPort(host); err == nil {
		host, port = h, given
	} else if t.port != 443 {
		return false
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), t.host) && port == strconv.Itoa(int(t.port))
}

// forwarding are the headers that httputil takes away, which are the guest's own.
var forwarding = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// rewrite makes the request that goes out. Its fields may carry a secret already.
func (p *Proxy) rewrite(r *httputil.ProxyRequest, t target, fields bool) {
	out := r.Out
	out.URL.Scheme, out.URL.Host, out.URL.RawQuery = "https", net.JoinHostPort(t.host, strconv.Itoa(int(t.port))), r.In.URL.RawQuery
	for _, name := range forwarding {
		if values, ok := r.In.Header[name]; ok {
			out.Header[name] = values
		}
	}
	out.Header.Set("Accept-Encoding", "identity") // else an echo of the secret could not be seen
	if p.put(out, t) || fields {
		out.Header.Del("Range") // by which an echo could come in parts
		r.Out = out.WithContext(context.WithValue(out.Context(), carriedKey{}, true))
	}
}

// carriedKey marks a request that carries a secret, connKey what its connection is.
type (
	carriedKey struct{}
	connKey    struct{}
)

func carried(r *http.Request) bool { return r.Context().Value(carriedKey{}) != nil }

// taken is a connection of the guest.
type taken struct {
	net.Conn
	target    target
	transport *http.Transport
	once      sync.Once
	done      chan struct{} // closed with it
	serving   sync.WaitGroup
}

// Close closes it.
func (c *taken) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}

// takenOf is the connection under TLS.
func takenOf(c net.Conn) *taken {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	t, _ := c.(*taken)
	return t
}

// panics logs what ends a request against all expectation. What else a server has
// to say quotes guests, who could fill the log with it.
type panics struct{ proxy *Proxy }

// Write logs a line of the server.
func (p panics) Write(line []byte) (int, error) {
	if text := string(line); strings.HasPrefix(text, "http: panic") || strings.HasPrefix(text, "http2: panic") {
		p.proxy.Log("credential proxy", "panic", p.proxy.veil.text(text))
	}
	return len(line), nil
}

// listener gives the server the connections that were handed over.
type listener struct {
	conns <-chan net.Conn
	end   <-chan struct{}
}

// Accept waits for one.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.end:
		return nil, net.ErrClosed
	}
}

// Close does nothing: it ends with what it was made with.
func (l *listener) Close() error { return nil }

// Addr is nowhere.
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }
