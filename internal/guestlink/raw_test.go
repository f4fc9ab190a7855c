package guestlink

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guestlink/linktest"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestOpenRaw finds the opening of the newest boot behind what earlier ones left,
// and gives every byte that follows.
func TestOpenRaw(t *testing.T) {
	line := func(digit string) string { return wire.Magic + strings.Repeat(digit, 2*wire.NonceLen) + "\n" }
	for name, stale := range map[string]string{
		"nothing":        "",
		"messages":       "\x68\x00\x00\x00\x1a\x00\x00\x00 and more",
		"another boot":   line("1"),
		"boot and noise": line("1") + "\x68\x00noise\n" + line("2"),
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := net.Pipe()
			own := wire.Magic + linktest.Nonce + "\n"
			go func() { _, _ = io.WriteString(guest, stale+own) }()
			go func() {
				echoes := bufio.NewReader(guest)
				for got := ""; got != own; {
					var err error
					if got, err = echoes.ReadString('\n'); err != nil {
						return // OpenRaw tells
					}
				}
				_, _ = io.WriteString(guest, "first, and then the rest")
				_ = guest.Close()
			}()
			raw, err := OpenRaw(t.Context(), host, []byte("first"))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(raw); string(got) != "first, and then the rest" {
				t.Errorf("%q, %v", got, err)
			}
			_ = raw.Close()
		})
	}
}

func TestOpenRawEndsWithContext(t *testing.T) {
	host, guest := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, guest) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := OpenRaw(ctx, host, []byte("first")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
