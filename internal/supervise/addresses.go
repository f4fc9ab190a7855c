package supervise

import (
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// addressPause is the least time between two addresses: a guest that asks more
	// often is not heard.
	addressPause = time.Second
	// waitingAddresses is how many a client may leave unread.
	waitingAddresses = 2
)

// addresses hands what the guest wants opened to the clients that are attached.
type addresses struct {
	now func() time.Time

	mu      sync.Mutex
	last    time.Time
	clients map[chan<- string]struct{}
}

func newAddresses(now func() time.Time) *addresses {
	return &addresses{now: now, clients: map[chan<- string]struct{}{}}
}

// join gives a client's addresses until leave is called, which closes wanted.
func (a *addresses) join() (wanted <-chan string, leave func()) {
	c := make(chan string, waitingAddresses)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clients[c] = struct{}{}
	return c, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.clients, c)
		close(c)
	}
}

// show hands an address to all clients, and says why it could not. ok is false
// for one that is not even answered.
func (a *addresses) show(address string) (why string, ok bool) {
	if err := wire.CheckAddress(address); err != nil {
		return "the address is refused", true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if now.Sub(a.last) < addressPause {
		return "", false
	}
	a.last = now
	shown := 0
	for c := range a.clients {
		select {
		case c <- address:
			shown++
		default: // it has not read the last ones
		}
	}
	if shown == 0 {
		return "nobody is attached to the sandbox who could open it", true
	}
	return "", true
}

// heard answers a guest that wants an address opened.
func (a *addresses) heard(link *guestlink.Link, m wire.Message) bool {
	if m.Type != wire.OpenAddress {
		return false
	}
	if why, ok := a.show(m.Text); ok {
		_ = link.Send(wire.Message{Type: wire.AddressShown, Bytes: m.Bytes, Text: why}) // fails with the link
	}
	return true
}

// addressView is an address on its way to a client.
type addressView struct {
	Address string `json:"address"`
}

// showAddresses tells a client what the guest wants opened, if it shows that: from
// now on, once begin is called. A program may end as soon as it has asked: end waits
// until that is told, too.
func (r *relay) showAddresses(command Command) (begin, end func()) {
	if !command.Addresses || r.wanted == nil {
		return func() {}, func() {}
	}
	wanted, leave := r.wanted.join()
	var sending sync.WaitGroup
	begin = func() { sending.Go(func() { r.sendAddresses(wanted) }) }
	return begin, sync.OnceFunc(func() {
		leave()
		_ = r.conn.SetWriteDeadline(time.Now().Add(answerTimeout))
		sending.Wait()
	})
}

func (r *relay) sendAddresses(wanted <-chan string) {
	for address := range wanted {
		if r.out.sendJSON(opening, addressView{address}) != nil {
			return // its reader sees it too
		}
	}
}
