package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/forward"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// listTime bounds the question what listens in the guest.
const listTime = 10 * time.Second

// PortRequest is a question about ports, or a change of what is forwarded.
type PortRequest struct {
	Add    *port.Forward `json:"add,omitempty"`
	Remove *port.Forward `json:"remove,omitempty"`
	// Listening asks the guest what listens there.
	Listening bool `json:"listening,omitempty"`
}

func (r PortRequest) valid() bool {
	return (r.Add == nil || r.Add.Valid()) && (r.Remove == nil || r.Remove.Valid())
}

// PortReport is how the ports are after that.
type PortReport struct {
	Forwards  []PortState      `json:"forwards"`
	Added     port.Forward     `json:"added,omitzero"` // with the port it got
	Listening []wire.Listening `json:"listening,omitempty"`
}

// PortState is one forward and why it does not listen, empty if it does.
type PortState struct {
	port.Forward
	Failed string `json:"failed,omitempty"`
}

// portTable is what the server needs of the ports.
type portTable interface {
	handle(ctx context.Context, r PortRequest) (PortReport, error)
}

// port answers a request about ports.
func (s *server) port(ctx context.Context, conn *net.UnixConn, out *frameWriter, r PortRequest) error {
	report, err := s.ports.handle(ctx, r)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return out.sendJSON(accepted, report)
}

// ports are the forwards of the record: those that listen are in the table, the
// others have failed.
type ports struct {
	guest sessions
	table *forward.Table
	edit  func(ctx context.Context, apply func(*record.Record) error) error

	mu        sync.Mutex
	all       []port.Forward
	displaced []port.Displaced // of all
	failed    map[port.Forward]string
}

// openPorts begins to listen. A port that was asked for and is taken fails the
// first start, before anything boots; later ones go on without it.
func (s *supervisor) openPorts(life context.Context) error {
	p := &ports{guest: s.guest, edit: s.edit, failed: map[port.Forward]string{}}
	p.table = forward.New(life, p, s.log)
	p.table.Use = s.idle.use
	s.ports = p
	if s.order.Mode != "" || s.rec.Mode != wire.ModeRun {
		return nil
	}
	say := func(kind event.Kind, text string) {
		s.starter.event(event.Event{Time: s.Now(), Kind: kind, Text: text})
	}
	for _, f := range s.rec.Forwards {
		wanted := port.Wanted(s.rec.Displaced, f)
		got, err := p.prefer(wanted, f)
		err = forward.Explain(f, err)
		switch {
		case err != nil && s.rec.State == record.Creating:
			return err
		case err != nil:
			p.failed[f] = err.Error()
			say(event.Warning, err.Error())
		case wanted.Host != 0 && wanted.Host != got.Host:
			say(event.Notice, forward.Instead(wanted, got))
		}
		p.all = append(p.all, got)
		p.displaced = port.Displace(p.displaced, p.all, wanted, got)
	}
	s.rec.Forwards, s.rec.Displaced = slices.Clone(p.all), slices.Clone(p.displaced)
	return nil
}

// prefer listens on the port that a forward would like best, where that is free, else
// on the one that it had instead, else on any that will do.
func (p *ports) prefer(wanted, f port.Forward) (port.Forward, error) {
	if wanted.Same(f) {
		return p.table.Add(f)
	}
	exact := wanted
	exact.Any = false
	if _, err := p.table.Add(exact); err != nil {
		return p.table.Add(f)
	}
	return wanted, nil
}

func (p *ports) handle(ctx context.Context, r PortRequest) (report PortReport, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Add != nil {
		report.Added, err = p.add(ctx, *r.Add)
	}
	if err == nil && r.Remove != nil {
		err = p.remove(ctx, *r.Remove)
	}
	report.Forwards = make([]PortState, 0, len(p.all))
	for _, f := range p.all {
		report.Forwards = append(report.Forwards, PortState{f, p.failed[f]})
	}
	if err == nil && r.Listening {
		report.Listening, err = p.listening(ctx)
	}
	return report, err
}

// add listens, and then records it: one that cannot be recorded does not listen.
// One that had failed is tried again, and so is the port of one that has another in
// its place; the other will not do for who insists on that port.
func (p *ports) add(ctx context.Context, f port.Forward) (port.Forward, error) {
	if p.table.Listens(f) {
		return f, nil
	}
	now, standing := port.Standing(p.displaced, f)
	instead := now
	if !standing || !f.Any {
		instead = f
	}
	got, err := p.prefer(f, instead)
	if err != nil {
		return f, forward.Explain(f, err)
	}
	delete(p.failed, f)
	delete(p.failed, now)
	if standing && got.Same(now) {
		return got, nil
	}
	others := slices.DeleteFunc(slices.Clone(p.all), func(o port.Forward) bool { return o.Same(f) || o.Same(now) })
	if err := p.record(ctx, append(others, got), port.Displace(p.displaced, append(others, got), f, got)); err != nil {
		p.table.Remove(got)
		return f, err
	}
	if standing {
		p.table.Remove(now)
	}
	return got, nil
}

func (p *ports) remove(ctx context.Context, f port.Forward) error {
	others := slices.DeleteFunc(slices.Clone(p.all), f.Same)
	if err := p.record(ctx, others, port.Displace(p.displaced, others, f, f)); err != nil {
		return err
	}
	p.table.Remove(f)
	delete(p.failed, f)
	return nil
}

func (p *ports) record(ctx context.Context, all []port.Forward, displaced []port.Displaced) error {
	err := p.edit(ctx, func(r *record.Record) error {
		r.Forwards, r.Displaced = slices.Clone(all), slices.Clone(displaced)
		return nil
	})
	if err == nil {
		p.all, p.displaced = all, displaced
	}
	return err
}

// Port connects to a port of the guest.
func (p *ports) Port(ctx context.Context, number int) (*bufio.Reader, io.ReadWriteCloser, error) {
	in, stream, a, err := p.ask(ctx, wire.PortRequest{Op: wire.PortDial, Port: number})
	if err == nil && a.Error != "" {
		err = errors.Join(errors.New(clipLine(plain(a.Error))), stream.Close())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("connect to port %d of the sandbox: %w", number, err)
	}
	return in, stream, nil
}

// listening asks the guest, which may say anything.
func (p *ports) listening(ctx context.Context) ([]wire.Listening, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	_, stream, a, err := p.ask(ctx, wire.PortRequest{Op: wire.PortList})
	if err == nil {
		err = stream.Close()
	}
	if err == nil && a.Error != "" {
		err = errors.New(clipLine(plain(a.Error)))
	}
	if err != nil {
		return nil, fault.New(fault.Boot, "", "ask the sandbox which ports are listened on: %w", err)
	}
	a.Listening = slices.DeleteFunc(a.Listening, func(l wire.Listening) bool { return l.Port < 1 || l.Port > 1<<16-1 })
	a.Listening = a.Listening[:min(len(a.Listening), wire.MaxListening)]
	for i := range a.Listening {
		l := &a.Listening[i]
		l.Address, l.Program = clipWord(plain(l.Address)), clipWord(plain(l.Program))
	}
	return a.Listening, nil
}

// clipWord bounds what the guest calls something.
func clipWord(text string) string { return text[:min(len(text), 60)] }

// ask opens a port stream and takes the guest's answer.
func (p *ports) ask(ctx context.Context, r wire.PortRequest) (*bufio.Reader, net.Conn, wire.PortAnswer, error) {
	var a wire.PortAnswer
	stream, err := p.guest.stream(ctx, wire.StreamPort)
	if err != nil {
		return nil, nil, a, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	in := bufio.NewReaderSize(stream, wire.MaxMessage)
	line, err := json.Marshal(r)
	if err == nil {
		_, err = stream.Write(append(line, '\n'))
	}
	if err == nil {
		line, err = in.ReadSlice('\n')
	}
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, nil, a, errors.Join(err, stream.Close())
	}
	return in, stream, a, nil
}
