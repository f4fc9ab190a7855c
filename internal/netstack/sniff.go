package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/smolvm/smolvm/internal/egress"
)

// maxHeld is how much of a connection's begin is held back until it has told its
// name. A TLS client says hello in 2 KiB.
const maxHeld = 32 << 10

// gate holds back what a guest sends over a connection that only a name allowed,
// until the connection has told the name it is for, or that it tells none.
type gate struct {
	flow   *flow
	policy func() egress.Policy // nil: the gate is open
	held   []byte
}

// gate is the flow's. What the other side sends is never held back.
func (x *flow) gate(policy func() egress.Policy) *gate {
	if !x.named {
		return &gate{}
	}
	return &gate{flow: x, policy: policy}
}

// pass takes what the guest sent and gives what may go on.
func (g *gate) pass(p []byte) ([]byte, error) {
	if g.policy == nil {
		return p, nil
	}
	g.held = append(g.held, p...)
	name, more := tells(g.held)
	switch {
	case more && len(g.held) < maxHeld:
		return nil, nil
	case more:
		return nil, g.shut(egress.Verdict{Reason: "its first message is too long to be looked at"})
	case name != "":
		if v := g.policy().Says(name, g.flow.to.Port()); !v.Allowed {
			return nil, g.shut(v)
		}
		g.flow.rename(egress.Canonical(name))
	}
	return g.rest(), nil
}

// rest opens the gate and gives what it held.
func (g *gate) rest() []byte {
	held := g.held
	g.policy, g.held = nil, nil
	return held
}

func (g *gate) shut(v egress.Verdict) error {
	g.held = nil
	g.flow.refuse(v)
	return fmt.Errorf("%w: %s", errReset, v.Reason)
}

// rename notes the name that the connection itself told.
func (x *flow) rename(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.name = name
}

// tells gives the name that the begin of a connection asks for, empty where it
// asks for none; more says that this cannot be told yet.
func tells(p []byte) (name string, more bool) {
	switch {
	case len(p) == 0:
		return "", true
	case p[0] == recordHandshake:
		return tlsName(p)
	case p[0] >= 'A' && p[0] <= 'Z':
		return httpName(p)
	}
	return "", false
}

const (
	recordHandshake = 22
	clientHello     = 1
	serverName      = 0
)

// tlsName is the server's name in a TLS client's hello.
func tlsName(p []byte) (name string, more bool) {
	var hello []byte
	for len(p) > 0 {
		if p[0] != recordHandshake || len(p) > 1 && p[1] != 3 {
			return "", false // not TLS
		}
		if len(p) < 5 {
			return "", true
		}
		size := int(binary.BigEndian.Uint16(p[3:]))
		if size == 0 {
			return "", false
		}
		hello = append(hello, p[5:min(len(p), 5+size)]...)
		if len(hello) >= 4 {
			if hello[0] != clientHello {
				return "", false
			}
			if want := 4 + int(hello[1])<<16 + int(hello[2])<<8 + int(hello[3]); len(hello) >= want {
				return helloName(hello[4:want]), false
			}
		}
		if len(p) < 5+size {
			return "", true
		}
		p = p[5+size:]
	}
	return "", true
}

// helloName finds the extension that names the server.
func helloName(p []byte) string {
	r := reader{p: p}
	r.skip(2 + 32)      // version, random
	r.skip(r.number(1)) // session
	r.skip(r.number(2)) // ciphers
	r.skip(r.number(1)) // compressions
	all := r.take(r.number(2))
	for extensions := (reader{p: all}); len(extensions.p) > 0 && !extensions.bad; {
		kind := extensions.number(2)
		data := reader{p: extensions.take(extensions.number(2))}
		if kind != serverName {
			continue
		}
		list := reader{p: data.take(data.number(2))}
		for len(list.p) > 0 && !list.bad {
			kind, name := list.number(1), list.take(list.number(2))
			if kind == 0 && !list.bad {
				return string(name)
			}
		}
	}
	return ""
}

// reader reads numbers and parts of a message; bad once it was too short.
type reader struct {
	p   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.p) {
		r.bad, r.p = true, nil
		return nil
	}
	part := r.p[:n]
	r.p = r.p[n:]
	return part
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) number(size int) int {
	n := 0
	for _, b := range r.take(size) {
		n = n<<8 | int(b)
	}
	return n
}

// httpName is the host that an HTTP request is for.
func httpName(p []byte) (name string, more bool) {
	method, _, found := bytes.Cut(p, []byte(" "))
	if len(method) > 16 || bytes.ContainsFunc(method, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return "", false // another protocol
	}
	if !found {
		return "", true
	}
	line, rest, found := bytes.Cut(p, []byte("\n"))
	if !found {
		return "", true
	}
	words := strings.Fields(string(line))
	if len(words) < 2 {
		return "", false
	}
	target := words[1]
	if string(method) == "CONNECT" {
		return withoutPort(target), false
	}
	if _, at, absolute := strings.Cut(target, "://"); absolute {
		host, _, _ := strings.Cut(at, "/")
		return withoutPort(host), false
	}
	for {
		line, rest, found = bytes.Cut(rest, []byte("\n"))
		text := strings.TrimSpace(string(line))
		switch key, value, _ := strings.Cut(text, ":"); {
		case !found:
			return "", true
		case text == "":
			return "", false
		case strings.EqualFold(strings.TrimSpace(key), "host"):
			return withoutPort(strings.TrimSpace(value)), false
		}
	}
}

// withoutPort is the host of host:port.
func withoutPort(host string) string {
	if _, after, found := strings.Cut(host, "@"); found {
		host = after
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host, _, _ = strings.Cut(inner, "]")
		return host
	}
	host, _, _ = strings.Cut(host, ":")
	return host
}
