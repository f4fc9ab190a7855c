package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
)

const (
	// maxHeld is how much of a message is held back until it has told its name. A TLS
	// client says hello in 2 KiB.
	maxHeld = 32 << 10
	// allHeld is how much is held back of all connections together.
	allHeld = 4 << 20
	// heldTime is how long anything is held back.
	heldTime = 15 * time.Second
	// maxMethod is how long the first word of a request may be, maxLine the line in
	// front of a chunk.
	maxMethod, maxLine = 24, 1 << 10
)

// gate reads along with what a guest sends, where names count, and lets no message
// through before the name that it tells was judged: a TLS client's hello, and each
// request of HTTP/1. What the other side sends is never held back.
type gate struct {
	flow   *flow
	policy func() egress.Policy
	look   egress.Look
	opaque bool   // another protocol may pass
	port   uint16 // that names are judged for
	state  func(*gate, []byte) (int, error)
	left   uint64 // bytes of the body or the chunk
	later  bool   // a request has passed
	tunnel bool   // through a proxy
	held   []byte
	timer  *time.Timer
	answer atomic.Int32 // to a request that asks for another protocol
}

// The values of gate.answer.
const (
	unasked = iota
	asked
	switched
	stayed
)

// gate is the flow's; close it.
func (x *flow) gate(policy func() egress.Policy) *gate {
	g := &gate{flow: x, policy: policy, look: x.begin.Look, opaque: x.begin.Opaque, port: x.to.Port(), state: (*gate).first}
	if g.look == egress.Blind {
		g.state = (*gate).glance
	}
	return g
}

// pass takes what the guest sent and gives what may go on.
func (g *gate) pass(p []byte) ([]byte, error) {
	if g.state == nil {
		return p, nil
	}
	if len(g.held) > 0 {
		p = append(g.held, p...)
		g.release()
	}
	done := 0
	for g.state != nil && done < len(p) {
		n, err := g.state(g, p[done:])
		if err != nil {
			return nil, g.shut(err)
		}
		if n == 0 && g.state != nil {
			break
		}
		done += n
	}
	if g.state == nil {
		return p, nil
	}
	return p[:done], g.hold(p[done:])
}

// rest gives what is held when the guest sends no more.
func (g *gate) rest() ([]byte, error) {
	held := g.held
	if len(held) > 0 && g.strict() {
		return nil, g.shut(errUnfinished)
	}
	g.release()
	return held, nil
}

// heard sees what the other side sends.
func (g *gate) heard(p []byte) {
	if g.answer.Load() != asked {
		return
	}
	answer := int32(stayed)
	if bytes.HasPrefix(p, []byte("HTTP/1.1 101")) {
		answer = switched
	}
	g.answer.Store(answer)
}

var (
	errUnfinished = errors.New("it ended before it had told what it is for")
	errTooLong    = errors.New("its first message is too long to be looked at")
	errHeldLong   = fmt.Errorf("it did not tell within %v what it is for", heldTime)
	errTooMuch    = errors.New("too many connections have not told yet what they are for")
	errHidden     = errors.New("HTTP/2 without TLS hides the name it is for")
	errUpgrade    = errors.New("it asks to change to a protocol that hides the name it is for")
	errOther      = errors.New("it is neither TLS nor HTTP")
)

// hold keeps what cannot be judged yet.
func (g *gate) hold(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if len(p) > maxHeld {
		return g.shut(errTooLong)
	}
	if g.flow.flows.held.Add(int64(len(p))) > allHeld {
		g.flow.flows.held.Add(-int64(len(p)))
		return g.shut(errTooMuch)
	}
	g.held = append([]byte(nil), p...)
	if g.timer == nil {
		g.timer = time.AfterFunc(g.flow.flows.patience, func() { g.flow.refuse(egress.Verdict{Reason: errHeldLong.Error()}) })
	}
	return nil
}

// release forgets what was held. The time goes on while something is held in its place.
func (g *gate) release() {
	g.flow.flows.held.Add(-int64(len(g.held)))
	g.held = nil
}

// told says that the message that was held is judged.
func (g *gate) told() {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
}

func (g *gate) close() {
	g.told()
	g.release()
}

// shut ends the connection.
func (g *gate) shut(err error) error {
	g.close()
	var no denial
	if !errors.As(err, &no) {
		no = denial(egress.Verdict{Reason: err.Error()})
		if errors.Is(err, errOther) {
			no.Reason += ", so no name is told by which it could be allowed"
			no.Rule = g.flow.rule(g.port)
		}
	}
	g.flow.refuse(egress.Verdict(no))
	return fmt.Errorf("%w: %s", errReset, no.Reason)
}

// denial is a verdict as an error.
type denial egress.Verdict

func (r denial) Error() string { return r.Reason }

// strict tells whether only what has told an allowed name may pass.
func (g *gate) strict() bool { return g.policy().Softened(g.look) == egress.Needed && !g.opaque }

// judge judges what the connection says that it is for.
func (g *gate) judge(look egress.Look, what told, settled bool) (egress.Verdict, error) {
	v := g.policy().Says(look, what.name, what.port)
	if !v.Allowed {
		return v, denial(v)
	}
	g.flow.tells(what, settled)
	return v, nil
}

// glance looks at the begin for what is told there, where nothing depends on it yet.
func (g *gate) glance(p []byte) (int, error) {
	g.state = nil
	if name, ok, _ := tlsName(p); ok && name != "" {
		g.flow.tells(told{name: name, port: g.port}, true)
	} else if end := endOfHead(p); end > 0 {
		if r, err := parseRequest(p[:end]); err == nil && r.host != "" {
			g.flow.tells(r.told(g.port), false)
		}
	}
	return len(p), nil
}

// first judges by the first bytes what the connection is.
func (g *gate) first(p []byte) (int, error) {
	switch {
	case p[0] == recordHandshake:
		return g.hello(p)
	case p[0] == '\r', p[0] == '\n': // servers pass over empty lines
		return 1, nil
	}
	word := p[:min(len(p), maxMethod+1)]
	end := bytes.IndexFunc(word, func(c rune) bool { return (c < 'A' || c > 'Z') && c != '-' && c != '_' })
	switch {
	case end < 0 && len(word) <= maxMethod:
		return 0, nil
	case end <= 0 || p[end] != ' ' && p[end] != '\t':
		return g.other()
	}
	line, _, whole := bytes.Cut(p, []byte("\n"))
	if !whole {
		return 0, nil
	}
	if !bytes.Contains(bytes.ToUpper(line), []byte("HTTP/")) {
		return g.other()
	}
	return g.head(p)
}

// other is any protocol that tells no name.
func (g *gate) other() (int, error) {
	if g.strict() {
		return 0, errOther
	}
	return g.open()
}

// open lets all that follows pass, without a look.
func (g *gate) open() (int, error) {
	g.told()
	g.state = nil
	return 0, nil
}

// hello judges a TLS client's hello. A connection stays with the name it told.
func (g *gate) hello(p []byte) (int, error) {
	name, ok, more := tlsName(p)
	switch {
	case more:
		return 0, nil
	case !ok:
		return g.other()
	case name != "":
		if _, err := g.judge(g.look, told{name, g.port, g.tunnel}, true); err != nil {
			return 0, err
		}
	}
	return g.open()
}

// next takes what follows a request.
func (g *gate) next(p []byte) (int, error) {
	if p[0] == '\r' || p[0] == '\n' {
		return 1, nil
	}
	return g.head(p)
}

// head judges a request of HTTP.
func (g *gate) head(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("PRI * HTTP/2")) {
		return 0, errHidden
	}
	end := endOfHead(p)
	if end < 0 {
		return 0, nil
	}
	r, err := parseRequest(p[:end])
	if err != nil {
		return 0, err
	}
	look := g.look
	if r.proxied && look == egress.Proxied {
		look = egress.Needed
	}
	var v egress.Verdict
	if r.host != "" {
		what := r.told(g.port)
		what.proxied = what.proxied || g.tunnel
		if v, err = g.judge(look, what, false); err != nil {
			return 0, err
		}
	}
	g.told()
	return end, g.follow(r, look, v)
}

// follow sets what comes behind a head.
func (g *gate) follow(r request, look egress.Look, v egress.Verdict) error {
	switch {
	case r.connect: // as if it began anew, behind the proxy
		g.look, g.opaque, g.port, g.tunnel, g.state = look, v.Opaque, r.port, true, (*gate).first
		return nil
	case r.upgrade != "":
		if g.later || r.chunked || r.length > 0 || !bytes.EqualFold([]byte(r.upgrade), []byte("websocket")) {
			return errUpgrade
		}
		g.answer.Store(asked)
		g.state = (*gate).upgrade
	case r.chunked:
		g.state = (*gate).chunk
	case r.length > 0:
		g.left, g.state = r.length, (*gate).body
	default:
		g.state = (*gate).next
	}
	g.later = true
	return nil
}

// upgrade waits for what the server says.
func (g *gate) upgrade(p []byte) (int, error) {
	switch g.answer.Load() {
	case asked:
		return 0, nil
	case switched:
		return g.open()
	}
	g.told()
	g.state = (*gate).next
	return g.next(p)
}

// body lets a body pass.
func (g *gate) body(p []byte) (int, error) {
	n := min(uint64(len(p)), g.left)
	if g.left -= n; g.left == 0 {
		g.state = (*gate).next
	}
	return int(n), nil
}

// chunk takes the line in front of a chunk.
func (g *gate) chunk(p []byte) (int, error) {
	line, _, whole := bytes.Cut(p, []byte("\r\n"))
	switch {
	case len(line) > maxLine:
		return 0, errAmbiguous
	case !whole:
		return 0, nil
	}
	size, err := chunkSize(line)
	if err != nil {
		return 0, err
	}
	g.told()
	g.left, g.state = size+2, (*gate).chunkBody
	if size == 0 {
		g.state = (*gate).trailer
	}
	return len(line) + 2, nil
}

// chunkBody lets a chunk pass, with the end of its line.
func (g *gate) chunkBody(p []byte) (int, error) {
	n := int(min(uint64(len(p)), g.left))
	for i := max(n-2, 0); i < n; i++ {
		if at := g.left - uint64(i); at <= 2 && p[i] != "\n\r"[at-1] {
			return 0, errAmbiguous
		}
	}
	if g.left -= uint64(n); g.left == 0 {
		g.state = (*gate).chunk
	}
	return n, nil
}

// trailer takes the lines behind the last chunk.
func (g *gate) trailer(p []byte) (int, error) {
	line, _, whole := bytes.Cut(p, []byte("\r\n"))
	switch {
	case !whole:
		return 0, nil
	case bytes.ContainsAny(line, "\r\n\x00"):
		return 0, errAmbiguous
	case len(line) == 0:
		g.state = (*gate).next
	}
	g.told()
	return len(line) + 2, nil
}
