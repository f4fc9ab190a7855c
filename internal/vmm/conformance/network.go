package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
	"github.com/smolvm/smolvm/internal/wire"
)

// echoBytes go through the network in each direction where the setup names none.
const echoBytes = 4 << 20

// uplink is the network of a machine under test: it reaches one port of this
// computer, which sends back what it gets, and nothing else.
type uplink struct {
	port int
}

// connect makes the network of a machine whose card ends in this process; nil where
// it has none. It ends with the test.
func connect(t *testing.T, m vmm.Machine) *uplink {
	t.Helper()
	networked, ok := m.(vmm.Networked)
	if !ok || networked.Card() == nil {
		return nil
	}
	u := &uplink{port: echoServer(t)}
	network, err := netstack.New(networked.Card(), netstack.Config{
		Policy:    egress.Policy{Mode: egress.Restricted, Allow: []egress.Rule{egress.HostPort(uint16(u.port))}},
		Resolvers: func() []netip.AddrPort { return nil },
		Own:       func(netip.Addr) bool { return false },
		Dial:      u.dial, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := network.Run(ctx); err != nil {
			t.Errorf("the network ended: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return u
}

// dial connects to the one port; a network that asks for more is wrong.
func (u *uplink) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if address != fmt.Sprintf("127.0.0.1:%d", u.port) {
		return nil, fmt.Errorf("the network connects to %s", address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// echoServer listens on loopback and sends back what it gets.
func echoServer(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

// talk lets the guest send bytes to the open port and compare what comes back, and
// try one that is closed.
func talk(t *testing.T, c *client, u *uplink, n int64) {
	if u == nil {
		t.Skip("the card of this machine does not end here")
	}
	if n == 0 {
		n = echoBytes
	}
	gateway := wire.Gateway4.Addr()
	want := sha256.New()
	_, _ = io.CopyN(want, guest.Pattern(), n) // endless
	begun := time.Now()
	got := c.ask(t, guest.Request{Op: guest.Echo, Text: netip.AddrPortFrom(gateway, uint16(u.port)).String(), N: n})
	if got.Error != "" || !bytes.Equal(got.Data, want.Sum(nil)) {
		t.Fatalf("bytes that went through the network: %x, %s", got.Data, got.Error)
	}
	t.Logf("there and back: %.1f MB/s", float64(n)/time.Since(begun).Seconds()/1e6)
	begun = time.Now()
	if got := c.ask(t, guest.Request{Op: guest.Echo, Text: netip.AddrPortFrom(gateway, 9).String(), N: 1}); got.Error == "" {
		t.Error("a closed port answered")
	}
	t.Logf("a closed port: refused in %v", time.Since(begun).Round(time.Millisecond))
}
