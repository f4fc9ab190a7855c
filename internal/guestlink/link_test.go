package guestlink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/guestlink/linktest"
	"github.com/smolvm/smolvm/internal/wire"
)

// openBoth opens a link with a guest that behaves.
func openBoth(t *testing.T) (*Link, *linktest.Guest) {
	t.Helper()
	host, guest := net.Pipe()
	opened := make(chan *linktest.Guest, 1)
	go func() {
		g, err := linktest.Open(guest, linktest.Nonce)
		if err != nil {
			t.Error(err)
		}
		opened <- g
	}()
	l, err := Open(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	g := <-opened
	t.Cleanup(func() {
		_ = l.Close()
		_ = g.Close()
	})
	return l, g
}

func TestMessagesBothWays(t *testing.T) {
	l, g := openBoth(t)
	want := wire.Message{Type: wire.Ready, Boot: &wire.BootReport{Kernel: "6.12", StepsMS: map[string]int64{"a": 1}}}
	go func() { _ = g.Send(want) }()
	if d := cmp.Diff(want, <-l.Messages()); d != "" {
		t.Error(d)
	}
	go func() { _ = l.Send(wire.Message{Type: wire.Clock, UnixNano: 5}) }()
	if m, err := g.Receive(); err != nil || m.UnixNano != 5 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestDial(t *testing.T) {
	l, g := openBoth(t)
	go func() {
		stream, kind, err := g.Accept()
		if err != nil || kind != wire.StreamSSH {
			t.Errorf("%q, %v", kind, err)
			return
		}
		_, _ = io.Copy(stream, stream)
		_ = stream.Close()
	}()
	conn, err := l.Dial(t.Context(), wire.StreamSSH)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 200<<10/16)
	go func() {
		_, _ = conn.Write(data)
		_ = conn.Close() // half
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

// TestLastWords checks that messages sent just before the end are delivered.
func TestLastWords(t *testing.T) {
	l, g := openBoth(t)
	for i := range 3 {
		if err := g.Send(wire.Message{Type: wire.Working, Text: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	_ = g.Close()
	<-l.Done()
	var got []string
	for m := range l.Messages() {
		got = append(got, m.Text)
	}
	if d := cmp.Diff([]string{"0", "1", "2"}, got); d != "" {
		t.Error(d)
	}
	if !errors.Is(l.Err(), io.EOF) {
		t.Errorf("reason %v, want EOF", l.Err())
	}
	if _, err := l.Dial(t.Context(), wire.StreamSSH); err == nil {
		t.Error("Dial on an ended link succeeded")
	}
}

// TestEarlierBoots opens a link behind what earlier boots left in the socket.
func TestEarlierBoots(t *testing.T) {
	line := func(digit string) string { return wire.Magic + strings.Repeat(digit, 2*wire.NonceLen) + "\n" }
	for name, stale := range map[string]string{
		"nothing":              "",
		"binary":               "\x00\x01\x02\xff" + strings.Repeat("\x00", 10000),
		"text without newline": "half a message",
		"half an opening line": wire.Magic + "00ff",
		"magic twice":          wire.Magic + wire.Magic,
		"opening of a boot":    line("1"),
		"several boots":        line("1") + "noise" + line("2") + "more noise\n",
		"upper-case nonce":     wire.Magic + strings.Repeat("GG", wire.NonceLen) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := net.Pipe()
			go func() {
				go func() { _, _ = io.WriteString(guest, stale+line("9")) }()
				in := bufio.NewReader(guest)
				for got := ""; got != line("9"); {
					var err error
					if got, err = in.ReadString('\n'); err != nil {
						t.Error(err)
						return
					}
				}
				if g, err := linktest.Multiplex(bufferedConn{guest, in}); err == nil {
					_ = g.Send(wire.Message{Type: wire.Ready}) // may fail after it arrived
				}
			}()
			l, err := Open(t.Context(), host)
			if err != nil {
				t.Fatal(err)
			}
			if m := <-l.Messages(); m.Type != wire.Ready {
				t.Errorf("message %+v", m)
			}
			_ = l.Close()
		})
	}
}

type bufferedConn struct {
	net.Conn
	in io.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.in.Read(p) }

func TestOpenEndsWithContext(t *testing.T) {
	for name, before := range map[string]string{
		"silence":    "",
		"no streams": wire.Magic + linktest.Nonce + "\n\x00",
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := net.Pipe()
			go func() {
				_, _ = io.WriteString(guest, before)
				_, _ = io.Copy(io.Discard, guest)
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := Open(ctx, host); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if _, err := host.Write([]byte("x")); err == nil {
				t.Error("the connection is still open")
			}
		})
	}
}

// endless is a guest that sends the same for ever.
func endless(t *testing.T, host net.Conn, chunk []byte) {
	go func() { _, _ = io.Copy(io.Discard, host) }()
	go func() {
		for {
			if _, err := host.Write(chunk); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = host.Close() })
}

func TestGarbageIsBounded(t *testing.T) {
	host, guest := net.Pipe()
	endless(t, guest, bytes.Repeat([]byte("garbage\n"), 8<<10))
	if _, err := Open(t.Context(), host); !errors.Is(err, ErrProtocol) {
		t.Errorf("got %v", err)
	}
}

// TestOpeningsAreBounded floods the host with opening lines.
func TestOpeningsAreBounded(t *testing.T) {
	host, guest := net.Pipe()
	endless(t, guest, bytes.Repeat([]byte(wire.Magic+linktest.Nonce+"\n"), 2000))
	if _, err := Open(t.Context(), host); !errors.Is(err, ErrProtocol) {
		t.Errorf("got %v", err)
	}
}

// TestHostileGuests checks that a guest that breaks the protocol loses the link.
func TestHostileGuests(t *testing.T) {
	for name, misbehave := range map[string]func(*linktest.Guest) error{
		"no JSON":       func(g *linktest.Guest) error { _, err := io.WriteString(g, "hello\n"); return err },
		"no type":       func(g *linktest.Guest) error { _, err := io.WriteString(g, "{}\n"); return err },
		"second stream": func(g *linktest.Guest) error { _, err := g.OpenStream("control"); return err },
		"many streams": func(g *linktest.Guest) error {
			for range 1000 {
				if _, err := g.OpenStream("x"); err != nil {
					return nil //nolint:nilerr // refused, as it should be
				}
			}
			return nil
		},
		"endless line": func(g *linktest.Guest) error {
			for range 20 {
				if _, err := g.Write(bytes.Repeat([]byte("x"), 10<<10)); err != nil {
					return nil //nolint:nilerr // refused, as it should be
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, g := openBoth(t)
			go func() { _ = misbehave(g) }()
			for m := range l.Messages() {
				t.Errorf("message %+v", m)
			}
			<-l.Done()
			_ = l.Close()
			if !errors.Is(l.Err(), ErrProtocol) {
				t.Errorf("reason %v", l.Err())
			}
		})
	}
}

func TestFirstStreamMustBeControl(t *testing.T) {
	host, guest := net.Pipe()
	go func() {
		line := wire.Magic + linktest.Nonce + "\n"
		_, _ = io.WriteString(guest, line)
		_, _ = io.ReadFull(guest, make([]byte, len(line)))
		frame := func(kind, flags byte, n uint32, body string) []byte {
			h := []byte{0, kind, 0, flags, 0, 0, 0, 2}
			return append(binary.BigEndian.AppendUint32(h, n), body...)
		}
		_, _ = guest.Write(frame(1, 1, 0, ""))
		go func() { _, _ = io.Copy(io.Discard, guest) }()
		_, _ = guest.Write(frame(0, 0, 4, "ssh\n"))
	}()
	if _, err := Open(t.Context(), host); !errors.Is(err, ErrProtocol) {
		t.Errorf("got %v", err)
	}
}

// TestPingsAreRationed floods the multiplexer with pings that it would answer
// from a goroutine each.
func TestPingsAreRationed(t *testing.T) {
	at := time.Unix(0, 0)
	ping := make([]byte, frameHeader)
	ping[1] = framePing
	data := append([]byte{0, frameData, 0, 0, 0, 0, 0, 2}, 0, 0, 0, 24)
	body := bytes.Repeat([]byte{framePing}, 24) // no frames, however they look
	g := newGuard(nil, nil, func() time.Time { return at })
	for round := range 3 {
		for range maxPings {
			for _, part := range [][]byte{ping[:5], ping[5:], data, body} {
				if err := g.watch(part); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
			}
		}
		at = at.Add(pingWindow + 1)
	}
	at = at.Add(-1)
	var err error
	for range 2*maxPings + 1 {
		if err = g.watch(ping); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrProtocol) {
		t.Errorf("got %v", err)
	}
}

func TestSendTooLong(t *testing.T) {
	l, _ := openBoth(t)
	if err := l.Send(wire.Message{Type: wire.Clock, Text: strings.Repeat("x", wire.MaxMessage)}); err == nil {
		t.Error("a message above the limit was sent")
	}
}

// FuzzOpening checks that whatever precedes an opening line, the line is found
// whole, and that the scan never reads past it nor past its budget.
func FuzzOpening(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte(wire.Magic + "\n"))
	f.Add([]byte(wire.Magic + linktest.Nonce))
	f.Add(bytes.Repeat([]byte(wire.Magic), 300))
	f.Fuzz(func(t *testing.T, garbage []byte) {
		line := wire.Magic + linktest.Nonce
		in := bufio.NewReader(io.MultiReader(bytes.NewReader(garbage), strings.NewReader("\n"+line+"\nrest")))
		for budget := 1 << 20; ; {
			got, n, err := scanOpening(in, budget)
			if err != nil {
				t.Fatalf("the line was not found: %v", err)
			}
			if len(got) != openingLen || !isOpening(got) {
				t.Fatalf("found %q", got)
			}
			budget -= n
			if rest, _ := in.Peek(5); string(rest) == "rest" {
				if string(got) != line {
					t.Errorf("the last line found is %q", got)
				}
				return
			}
		}
	})
}

// FuzzMessage checks that no control line does more than be refused or decoded.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"type":"ready","boot":{"kernel":"6"}}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Add(bytes.Repeat([]byte("["), 10000))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := bufio.NewReaderSize(bytes.NewReader(data), wire.MaxMessage)
		for {
			m, err := readMessage(lines)
			if err != nil {
				return
			}
			if m.Type == "" || len(m.Text) > 3*wire.MaxMessage {
				t.Errorf("message %+v", m)
			}
		}
	})
}

// FuzzGuard compares the guard's idea of frames with a plain reading of them.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 'a', 'b', 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 3)
	f.Fuzz(func(t *testing.T, stream []byte, step int) {
		pings := 0
		for rest := stream; len(rest) >= frameHeader; {
			body := uint64(0)
			switch rest[1] {
			case framePing:
				pings++
			case frameData:
				body = uint64(binary.BigEndian.Uint32(rest[8:]))
			}
			rest = rest[frameHeader:]
			rest = rest[min(body, uint64(len(rest))):]
		}
		g := newGuard(nil, nil, func() time.Time { return time.Unix(1, 0) })
		step = max(1, min(step, len(stream)))
		var err error
		for at := 0; at < len(stream) && err == nil; at += step {
			err = g.watch(stream[at:min(at+step, len(stream))])
		}
		if (err != nil) != (pings > maxPings) {
			t.Errorf("%d pings: %v", pings, err)
		}
	})
}
