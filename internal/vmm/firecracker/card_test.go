package firecracker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/vmm"
)

// segment is a frame of TCP over IPv4, with so many bytes and a right checksum.
func segment(payload int) []byte {
	f := make([]byte, 14+20+20+payload)
	copy(f, []byte{0x52, 0x55, 0x0a, 0, 2, 0x0f, 0x52, 0x55, 0x0a, 0, 2, 2, 8, 0})
	ip, tcp := f[14:34], f[34:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(f)-14))
	copy(ip[12:], []byte{10, 0, 2, 15, 10, 0, 2, 2})
	binary.BigEndian.PutUint16(ip[10:], ^reference(ip))
	tcp[12], tcp[13] = 5<<4, 0x10
	for i := range tcp[20:] {
		tcp[20+i] = byte(i*i>>3 ^ i)
	}
	pseudo := append(bytes.Clone(ip[12:20]), 0, 6, byte(len(tcp)>>8), byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], ^reference(append(pseudo, tcp...)))
	return f
}

// reference is the sum of RFC 1071, word by word.
func reference(p []byte) uint16 {
	var sum uint32
	for i := 0; i < len(p); i += 2 {
		word := uint32(p[i]) << 8
		if i+1 < len(p) {
			word |= uint32(p[i+1])
		}
		sum += word
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestFold(t *testing.T) {
	full := bytes.Repeat([]byte{0xff}, 100)
	for size := range 100 {
		for _, p := range [][]byte{segment(100)[:size], full[:size]} {
			if got, want := fold(p), reference(p); got != want {
				t.Fatalf("%d bytes: %#x, want %#x", size, got, want)
			}
		}
	}
}

// header is virtio's, as a guest fills it.
func header(flags, gso byte, start, offset uint16) []byte {
	h := make([]byte, virtioHeader)
	h[0], h[1] = flags, gso
	binary.NativeEndian.PutUint16(h[6:], start)
	binary.NativeEndian.PutUint16(h[8:], offset)
	return h
}

func TestComplete(t *testing.T) {
	want := segment(1001)
	partial := bytes.Clone(want)
	length := len(want) - 34
	binary.BigEndian.PutUint16(partial[50:], reference(append(bytes.Clone(want[26:34]), 0, 6, byte(length>>8), byte(length))))
	for name, c := range map[string]struct {
		header []byte
		taken  bool
	}{
		"to be completed":        {header(needsChecksum, gsoNone, 34, 16), true},
		"to be cut as well":      {header(needsChecksum, gsoTCP4|gsoECN, 34, 16), true},
		"a train of datagrams":   {header(needsChecksum, 5, 34, 16), false},
		"checksum of nothing":    {header(needsChecksum, gsoNone, uint16(len(want)), 0), false},
		"checksum behind it":     {header(needsChecksum, gsoNone, 34, uint16(len(want)-34-1)), false},
		"checksum far behind it": {header(needsChecksum, gsoNone, 34, 0xffff), false},
	} {
		got := bytes.Clone(partial)
		if taken := complete(c.header, got); taken != c.taken || taken && !bytes.Equal(got, want) {
			t.Errorf("%s: taken %v, right %v", name, taken, bytes.Equal(got, want))
		}
	}
	if got := bytes.Clone(want); !complete(header(0, gsoNone, 0, 0), got) || !bytes.Equal(got, want) {
		t.Error("a frame that is complete was changed")
	}
	zero := make([]byte, 60)
	zero[40], zero[41] = 0xff, 0xff // then the checksum would be 0
	if !complete(header(needsChecksum, gsoNone, 34, 6), zero) || binary.BigEndian.Uint16(zero[40:]) != 0xffff {
		t.Errorf("a datagram's checksum: %#x, want 0xffff", zero[40:42])
	}
}

func FuzzComplete(f *testing.F) {
	f.Add(header(needsChecksum, gsoTCP4, 34, 16), segment(10))
	f.Fuzz(func(t *testing.T, header, frame []byte) {
		if len(header) < virtioHeader {
			return
		}
		complete(header, frame)
	})
}

// network starts a machine of the stand-in that has a card.
func network(t *testing.T, behaviour string) (vmm.Machine, vmm.Card) {
	t.Helper()
	driver := standIn(t)
	if err := cage.TryTap(t.Context(), driver.runner); err != nil {
		t.Skip(err)
	}
	spec, out := testSpec(t, behaviour)
	spec.Network = true
	m, err := driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Kill()
		nothingLeft(t, spec.RunDir)
		if t.Failed() {
			t.Logf("console:\n%s", out)
		}
	})
	return m, m.(vmm.Networked).Card()
}

// answered sends a frame and waits for it to come back.
func answered(t *testing.T, c vmm.Card, frame []byte) {
	t.Helper()
	got := make(chan []byte, 1)
	go func() {
		buf := make([]byte, vmm.CardMTU+18)
		n, err := c.ReadFrame(buf)
		if err != nil {
			t.Errorf("read a frame: %v", err)
		}
		got <- buf[:n]
	}()
	again := time.NewTicker(100 * time.Millisecond) // what comes before the card is up is lost, as on any wire
	defer again.Stop()
	late := time.After(20 * time.Second)
	for {
		if err := c.WriteFrame([][]byte{frame[:14], frame[14:]}); err != nil {
			t.Fatal(err)
		}
		select {
		case back := <-got:
			if !bytes.Equal(back, frame) {
				t.Errorf("%d bytes came back changed: %d bytes, % x, want % x", len(frame), len(back), back[:60], frame[:60])
			}
			return
		case <-again.C:
		case <-late:
			t.Fatalf("a frame of %d bytes does not come back", len(frame))
		}
	}
}

// TestCard sends frames through a real tap into a cage and back, before and after a
// reboot, which takes another cage with another tap.
func TestCard(t *testing.T) {
	m, c := network(t, "reboot")
	other := append([]byte{0x52, 0x55, 0x0a, 0, 2, 0x0f, 0x52, 0x55, 0x0a, 0, 2, 2, 0x88, 0xb5}, make([]byte, 46)...)
	for range 2 {
		answered(t, c, other)
		answered(t, c, segment(10))
		answered(t, c, segment(vmm.CardMTU-40))
		letGo(t, m) // it reboots
	}
	answered(t, c, segment(1000))
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	if _, err := c.ReadFrame(make([]byte, 100)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the card of an ended machine: %v", err)
	}
	if err := c.WriteFrame([][]byte{other}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the card of an ended machine: %v", err)
	}
}

// TestCardChangesNothing: this computer has the same interfaces as before, and the
// closed card ends without the machine.
func TestCardChangesNothing(t *testing.T) {
	before := interfaces(t)
	m, c := network(t, "poweroff")
	if now := interfaces(t); !bytes.Equal(now, before) {
		t.Errorf("interfaces:\n%s\nbefore:\n%s", now, before)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.ReadFrame(make([]byte, 100)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed card: %v", err)
	}
	letGo(t, m)
	if err := m.Wait(); err != nil {
		t.Error(err)
	}
}

// interfaces are the names that the kernel knows in this network namespace.
func interfaces(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/route")
	if err != nil {
		t.Fatal(err)
	}
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		addresses, _ := one.Addrs()
		text = append(text, one.Name...)
		for _, a := range addresses {
			text = append(append(text, ' '), a.String()...)
		}
		text = append(text, '\n')
	}
	return text
}
