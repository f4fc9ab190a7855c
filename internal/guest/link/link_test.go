//go:build linux

package link

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/yamux"

	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/wire"
)

// pair opens a session with the host's own end of the link.
func pair(t *testing.T) (*Session, *guestlink.Link) {
	t.Helper()
	guest, host := net.Pipe()
	hosts := make(chan *guestlink.Link, 1)
	go func() {
		l, err := guestlink.Open(t.Context(), host)
		if err != nil {
			t.Errorf("host: %v", err)
		}
		hosts <- l
	}()
	session, err := Open(t.Context(), guest, strings.NewReader(strings.Repeat("n", wire.NonceLen)))
	if err != nil {
		t.Fatal(err)
	}
	l := <-hosts
	if l == nil {
		t.FailNow()
	}
	t.Cleanup(func() { session.Close(); l.Close() })
	return session, l
}

func TestControlMessagesBothWays(t *testing.T) {
	session, host := pair(t)
	want := wire.Message{Type: wire.Ready, Boot: &wire.BootReport{Kernel: "6.12", StepsMS: map[string]int64{"root": 5}}}
	if err := session.Send(want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, <-host.Messages()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := host.Send(wire.Message{Type: wire.Clock, UnixNano: 42}); err != nil {
		t.Fatal(err)
	}
	if got, err := session.Receive(); err != nil || got.UnixNano != 42 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestLongTextIsCut(t *testing.T) {
	session, host := pair(t)
	if err := session.Send(wire.Message{Type: wire.Failed, Text: strings.Repeat("\"\n", wire.MaxMessage)}); err != nil {
		t.Fatal(err)
	}
	if got := <-host.Messages(); got.Type != wire.Failed || len(got.Text) < 1000 {
		t.Errorf("got %s with %d bytes", got.Type, len(got.Text))
	}
	if err := session.Send(wire.Message{Type: wire.Failed, Text: strings.Repeat("\x01", wire.MaxMessage)}); err != nil {
		t.Errorf("text that grows in JSON: %v", err)
	}
}

func TestStreams(t *testing.T) {
	session, host := pair(t)
	sent := bytes.Repeat([]byte("0123456789"), 1<<17)
	go func() {
		stream, err := host.Dial(t.Context(), wire.StreamSSH)
		if err != nil {
			t.Errorf("dial: %v", err)
			return
		}
		defer stream.Close()
		if _, err := stream.Write(sent); err != nil {
			t.Errorf("write: %v", err)
		}
	}()
	stream, kind, err := session.Accept()
	if err != nil || kind != wire.StreamSSH {
		t.Fatalf("got %q, %v", kind, err)
	}
	got, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// greetWith lets the guest greet a host that answers with what answer returns.
func greetWith(t *testing.T, answer func(line string) string) error {
	t.Helper()
	guest, host := net.Pipe()
	defer guest.Close()
	go func() {
		defer host.Close()
		line, err := bufio.NewReader(host).ReadString('\n')
		if err == nil {
			_, _ = io.WriteString(host, answer(line))
		}
	}()
	reader, err := greet(guest, strings.NewReader(strings.Repeat("n", wire.NonceLen)))
	if err == nil {
		var rest []byte
		if rest, err = io.ReadAll(reader); err == nil && string(rest) != "next" {
			t.Errorf("what follows is %q", rest)
		}
	}
	return err
}

func TestGreet(t *testing.T) {
	for name, before := range map[string]string{
		"at once": "", "after lines": "old\nbytes\n", "after half a line": "SMOLVM-LINK/1 00", "after much": strings.Repeat("x", 200<<10),
	} {
		if err := greetWith(t, func(line string) string { return before + line + "next" }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, answer := range map[string]string{
		"nothing": "", "another nonce": wire.Magic + strings.Repeat("0", 32) + "\n", "without end": strings.Repeat("x", maxStale+(70<<10)),
	} {
		if err := greetWith(t, func(string) string { return answer }); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	guest, host := net.Pipe()
	defer host.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, guest, strings.NewReader(strings.Repeat("n", wire.NonceLen))); err == nil {
		t.Error("opened without a host")
	}
}

func TestBadKindsAreDropped(t *testing.T) {
	guest, host := net.Pipe()
	sessions := make(chan *yamux.Session, 1)
	go func() {
		reader := bufio.NewReader(host)
		line, _ := reader.ReadString('\n')
		_, _ = io.WriteString(host, line)
		mux, err := yamux.Client(&buffered{reader, host}, muxConfig())
		if err != nil {
			t.Error(err)
		}
		sessions <- mux
	}()
	session, err := Open(t.Context(), guest, strings.NewReader(strings.Repeat("n", wire.NonceLen)))
	if err != nil {
		t.Fatal(err)
	}
	mux := <-sessions
	defer mux.Close()
	defer session.Close()
	for _, text := range []string{strings.Repeat("k", maxKind+1), "half", "ssh\n"} {
		stream, err := mux.Open()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(stream, text)
		if text == "half" {
			stream.Close()
		}
	}
	if _, kind, err := session.Accept(); err != nil || kind != wire.StreamSSH {
		t.Errorf("got %q, %v", kind, err)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte(`{"type":"poweroff"}`))
	f.Add([]byte(`{"type":"clock","unix_nano":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		message, err := decodeMessage(line)
		if err == nil && message.Type == "" {
			t.Error("accepted without a type")
		}
	})
}

func TestFindPort(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	if path, err := FindPort(sys, dev, "org.test"); path != "" || err != nil {
		t.Errorf("without ports: %q, %v", path, err)
	}
	for port, name := range map[string]string{"vport0p1": "org.other\n", "vport1p1": "org.test\n", "vport2p1": ""} {
		dir := filepath.Join(sys, "class/virtio-ports", port)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "" {
			continue // not named yet
		}
		if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if path, err := FindPort(sys, dev, "org.test"); path != "" || err != nil {
		t.Errorf("without a node: %q, %v", path, err)
	}
	want := filepath.Join(dev, "vport1p1")
	if err := os.WriteFile(want, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := FindPort(sys, dev, "org.test")
	if path != want || err != nil {
		t.Fatalf("got %q, %v", path, err)
	}
	port, err := OpenPort(path)
	if err != nil || port.Close() != nil {
		t.Errorf("open: %v", err)
	}
	if _, err := OpenPort(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open a port that is not there: %v", err)
	}
}
