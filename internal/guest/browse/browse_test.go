//go:build linux

package browse

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/internal/wire"
)

// desk serves addresses in front of a host that answers as it is told.
func desk(t *testing.T, answer func(wire.Message) string) (socket string, seen *[]string) {
	t.Helper()
	var mu sync.Mutex
	seen = &[]string{}
	d := &Desk{}
	d.Tell = func(m wire.Message) {
		mu.Lock()
		defer mu.Unlock()
		*seen = append(*seen, m.Text)
		m.Type, m.Text = wire.AddressShown, answer(m)
		d.Answered(m)
		d.Answered(m) // a second answer is none
	}
	socket = filepath.Join(t.TempDir(), "open.sock")
	ctx, cancel := context.WithCancel(context.Background())
	listener, err := Listen(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() { d.Serve(ctx, listener) })
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	return socket, seen
}

func TestAddressesGoToTheHost(t *testing.T) {
	answer := ""
	socket, seen := desk(t, func(wire.Message) string { return answer })
	if err := Open([]string{"--new-window", "https://example.org/?a=b"}, socket); err != nil {
		t.Error(err)
	}
	answer = "nobody is\nattached"
	if err := Open([]string{"https://example.org/2"}, socket); err == nil || !strings.Contains(err.Error(), "nobody is attached") {
		t.Errorf("err = %v", err)
	}
	if len(*seen) != 2 || (*seen)[0] != "https://example.org/?a=b" {
		t.Errorf("the host saw %q", *seen)
	}
	for _, args := range [][]string{{}, {"-h"}, {"file:///etc/passwd"}, {"https://x/\x1b[2J"}, {"--", "javascript:1"}} {
		if err := Open(args, socket); err == nil {
			t.Errorf("%q is opened", args)
		}
	}
	if len(*seen) != 2 {
		t.Errorf("the host saw %q", *seen)
	}
}
