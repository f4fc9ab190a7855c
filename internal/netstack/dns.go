package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// askTime is how long one resolver may take before the next is asked: the
	// guest's own library waits five seconds.
	askTime = 2 * time.Second
	// quietName is how long a guest's TCP connection for questions may be idle.
	quietName    = 30 * time.Second
	maxUDPAnswer = 65507
	// asksPerSecond bounds what the computer's resolvers are asked for a guest, after a burst.
	asksPerSecond, asksBurst = 200, 1000
	// longestQuery is more than any question takes.
	longestQuery = 4096
)

// dnsPort is where resolvers listen.
const dnsPort = 53

// serveNames answers questions at the resolver's addresses until the stack is destroyed.
func (n *Network) serveNames() error {
	slots := make(chan struct{}, maxLookups)
	for _, at := range []netip.Addr{wire.Resolver4.Addr(), wire.Resolver6.Addr()} {
		local := tcpip.FullAddress{NIC: card, Addr: addressOf(at), Port: dnsPort}
		datagrams, err := gonet.DialUDP(n.stack, &local, nil, protocolOf(at))
		if err != nil {
			return fmt.Errorf("listen for questions for names: %w", err)
		}
		streams, err := gonet.ListenTCP(n.stack, local, protocolOf(at))
		if err != nil {
			_ = datagrams.Close()
			return fmt.Errorf("listen for questions for names: %w", err)
		}
		stop := context.AfterFunc(n.life, func() {
			streams.Shutdown()
			_, _ = datagrams.Close(), streams.Close()
		})
		n.running.Go(func() {
			defer stop()
			n.answerDatagrams(datagrams, slots)
		})
		n.running.Go(func() { n.answerStreams(streams, slots) })
	}
	return nil
}

// answerDatagrams answers each question in a goroutine of its own. One that comes
// while there is no slot is dropped: the guest asks again.
func (n *Network) answerDatagrams(conn *gonet.UDPConn, slots chan struct{}) {
	buf := make([]byte, longestQuery)
	for {
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		query := append([]byte(nil), buf[:size]...)
		n.running.Go(func() {
			defer func() { <-slots }()
			if answer := n.resolve(n.life, query, "udp"); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		})
	}
}

// answerStreams answers over TCP. Connections without a slot are closed.
func (n *Network) answerStreams(listener *gonet.TCPListener, slots chan struct{}) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		n.running.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(n.life, func() { _ = conn.Close() })()
			for n.answerStream(conn) == nil {
			}
		})
	}
}

// answerStream answers one question.
func (n *Network) answerStream(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(quietName))
	query, err := readFramed(conn, longestQuery)
	if err != nil {
		return err
	}
	answer := n.resolve(n.life, query, "tcp")
	if answer == nil {
		return errMessage
	}
	return writeFramed(conn, answer)
}

func readFramed(r io.Reader, most int) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(size[:]))
	if length > most {
		return nil, errMessage
	}
	m := make([]byte, length)
	_, err := io.ReadFull(r, m)
	return m, err
}

func writeFramed(w io.Writer, m []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}

// resolve answers one question; nil: with nothing.
func (n *Network) resolve(ctx context.Context, query []byte, network string) []byte {
	q, rcode := parseQuery(query)
	switch {
	case rcode < 0:
		return nil
	case rcode > 0:
		return reply(query, q, rcode)
	}
	if v := n.Policy().Resolve(q.name); !v.Allowed {
		n.flows.refuse(Entry{Time: n.Now().UTC(), Protocol: "dns", Name: q.name, Verdict: Refused, Reason: v.Reason, Rule: v.Rule, Mode: v.Mode})
		return refusal(query, q, "SmolVM: "+v.Reason)
	}
	if !n.asks.take() {
		return reply(query, q, rcodeRefused)
	}
	if q.name == egress.HostName {
		if q.kind != typeA {
			return local(query, q, netip.Addr{})
		}
		return local(query, q, wire.Gateway4.Addr())
	}
	answer, err := n.ask(ctx, query, q, network)
	if err != nil {
		return reply(query, q, rcodeServer)
	}
	return n.look(answer, q)
}

// look notes the addresses of an answer, and takes out what the policy does not let through.
func (n *Network) look(answer []byte, q question) []byte {
	if q.kind == typeA || q.kind == typeAAAA {
		if parsed, err := parseAnswer(answer); err == nil {
			_ = addresses(answer, parsed, func(a netip.Addr, ttl time.Duration) { n.names.add(a, q.name, ttl) })
		}
	}
	if !n.Policy().Watches() {
		return answer
	}
	parsed, err := parseAnswer(answer)
	if err == nil {
		answer, err = withoutECH(answer, parsed)
	}
	if err != nil {
		return nil
	}
	return answer
}

// parseAnswer finds where an answer's records begin.
func parseAnswer(m []byte) (question, error) {
	at := dnsHeader
	for range binary.BigEndian.Uint16(m[4:]) {
		_, next, err := readName(m, at)
		if err != nil || next+4 > len(m) {
			return question{}, errMessage
		}
		at = next + 4
	}
	return question{end: at}, nil
}

var errNoResolver = errors.New("this computer has no resolver")

// ask gives the question, as it is, to this computer's resolvers, one after the other.
func (n *Network) ask(ctx context.Context, query []byte, q question, network string) ([]byte, error) {
	err := errNoResolver
	for range 2 {
		for _, resolver := range n.Resolvers() {
			var answer []byte
			if answer, err = n.askOne(ctx, resolver, query, q, network); err == nil {
				return answer, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return nil, err
}

func (n *Network) askOne(ctx context.Context, resolver netip.AddrPort, query []byte, q question, network string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, err := n.Dial(ctx, network, resolver.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if network == "tcp" {
		if err := writeFramed(conn, query); err != nil {
			return nil, err
		}
		answer, err := readFramed(conn, maxMessage)
		if err == nil && !answers(answer, query, q) {
			err = errMessage
		}
		return answer, err
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUDPAnswer)
	for {
		size, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:size], query, q) {
			return append([]byte(nil), buf[:size]...), nil
		}
	}
}
