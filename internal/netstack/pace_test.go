package netstack

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
)

// TestRateOfStreams carries more than a second's worth through two connections at
// once, to the guest and from it. It must take as long as the rate says, and all of it
// must arrive.
func TestRateOfStreams(t *testing.T) {
	const second, each = 4 << 20, 2 << 20
	for name, carry := range map[string]func(guest, host net.Conn) error{
		"from the guest": func(guest, host net.Conn) error { return pour(guest, host, each) },
		"to the guest":   func(guest, host net.Conn) error { return pour(host, guest, each) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, egress.Policy{Rate: second})
			hosts := make(chan net.Conn, 2)
			g.serve(t, "203.0.113.7:80", func(c net.Conn) {
				hosts <- c
				<-g.network.life.Done()
			})
			var both sync.WaitGroup
			begun := time.Now()
			for range 2 {
				conn, err := g.tcp(t, "203.0.113.7:80")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close() })
				host := <-hosts
				both.Go(func() {
					if err := carry(conn, host); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
			const burst = second * paceLate / time.Second
			const least = (2*each - burst) * time.Second / second
			if took := time.Since(begun); took < least {
				t.Errorf("%d bytes took %v, less than %v", 2*each, took, least)
			}
		})
	}
}

// pour sends size bytes and reads them at the other end.
func pour(from, to net.Conn, size int64) error {
	var sent error
	var sending sync.WaitGroup
	sending.Go(func() { _, sent = from.Write(make([]byte, size)) })
	_, got := io.CopyN(io.Discard, to, size)
	sending.Wait()
	return errors.Join(sent, got)
}

// TestRateChangesLive frees a connection that would wait for long, and lets another
// be closed that waits.
func TestRateChangesLive(t *testing.T) {
	const size = 4 << 20
	g := newGuest(t, egress.Policy{})
	g.network.SetPolicy(egress.Policy{Rate: 16 << 10})
	g.serve(t, "203.0.113.7:80", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	g.serve(t, "203.0.113.8:80", func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		_, _ = c.Write([]byte{byte(n >> 20)})
	})
	waits, err := g.tcp(t, "203.0.113.7:80")
	if err != nil {
		t.Fatal(err)
	}
	_ = waits.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := waits.Write(make([]byte, size)); err == nil {
		t.Errorf("%d bytes went into buffers", n)
	}
	g.network.SetPolicy(egress.Policy{Rate: 16 << 10}.Denying(allow(t, egress.Open, "203.0.113.7").Allow...))
	if !ends(g.network.flows) {
		t.Error("a connection that waits for its turn does not end")
	}
	freed, err := g.tcp(t, "203.0.113.8:80")
	if err != nil {
		t.Fatal(err)
	}
	defer freed.Close()
	_ = freed.SetDeadline(time.Now().Add(20 * time.Second))
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		_, _ = freed.Write(make([]byte, size))
		_ = freed.(interface{ CloseWrite() error }).CloseWrite()
	})
	g.network.SetPolicy(egress.Policy{})
	if got, err := io.ReadAll(freed); err != nil || len(got) != 1 || got[0] != size>>20 {
		t.Errorf("after the change: %v, %v", got, err)
	}
}

// ends waits until no connection is open.
func ends(f *flows) bool {
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		if f.count(egress.TCP) == 0 {
			return true
		}
	}
	return false
}

// TestRateOfDatagrams sends many more at once than may pass. Those that pass come no
// sooner than the rate says.
func TestRateOfDatagrams(t *testing.T) {
	const second, size, sent, awaited = 64 << 10, 8 << 10, 400, 16
	g := newGuest(t, egress.Policy{Rate: second})
	come := make(chan struct{}, sent)
	g.serveUDP(t, "203.0.113.7:123", func([]byte) []byte {
		come <- struct{}{}
		return nil
	})
	conn, begun := g.udp(t, "203.0.113.7:123"), time.Now()
	for range sent {
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	for range awaited {
		<-come
	}
	const least = (awaited*size - paceBurst) * time.Second / second
	if took := time.Since(begun); took < least {
		t.Errorf("%d datagrams took %v, less than %v", awaited, took, least)
	}
}

// TestPaceIsInOrder lets three wait whose turns come one after the other.
func TestPaceIsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(time.Now, 100<<10)
		begun := time.Now()
		if err := p.wait(nil, paceBurst); err != nil || time.Since(begun) != 0 {
			t.Errorf("the burst: %v after %v", err, time.Since(begun))
		}
		gone := make(chan struct{})
		var all sync.WaitGroup
		for i, n := range []int{100 << 10, 50 << 10, 50 << 10} {
			want := []time.Duration{time.Second, 1500 * time.Millisecond, 500 * time.Millisecond}[i]
			var closed chan struct{}
			if i == 2 {
				closed = gone
			}
			all.Go(func() {
				err := p.wait(closed, n)
				if took := time.Since(begun); took != want || (err != nil) != (closed != nil) {
					t.Errorf("%d: %v after %v, want %v", i, err, took, want)
				}
			})
			synctest.Wait()
		}
		time.Sleep(500 * time.Millisecond)
		close(gone) // gives back what it would have taken
		all.Wait()
		if late := p.bucket.owe(50 << 10); late != 500*time.Millisecond {
			t.Errorf("the next waits %v", late)
		}
	})
}
