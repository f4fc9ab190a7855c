package netstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/smolvm/smolvm/internal/egress"
)

// mostMemory is what the process with the network may have of its own at any time.
// The goal for a whole supervisor is 128 MiB.
const mostMemory = 112 << 20

// packets is a link over a socket that keeps frames apart.
type packets struct{ net.Conn }

func (p packets) ReadFrame(b []byte) (int, error) { return p.Read(b) }
func (p packets) WriteFrame(parts [][]byte) error {
	_, err := p.Write(bytes.Join(parts, nil))
	return err
}

// lossy drops what its other end does not take soon, as a wire does. Otherwise two
// ends that answer as they read could wait for each other for ever.
type lossy struct{ packets }

func (l lossy) WriteFrame(parts [][]byte) error {
	_ = l.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if err := l.packets.WriteFrame(parts); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

func packetsOf(fd uintptr, name string) packets {
	file := os.NewFile(fd, name)
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		panic(err)
	}
	return packets{conn}
}

// TestFloodedProcess is the process that TestFloodsTakeLittleMemory floods: a network
// and nothing else, which connects to the servers that the test has, and nowhere else.
func TestFloodedProcess(t *testing.T) {
	streams, datagrams := os.Getenv("SMOLVM_FLOOD_TCP"), os.Getenv("SMOLVM_FLOOD_UDP")
	if streams == "" {
		t.Skip("it is started by another test")
	}
	debug.SetMemoryLimit(Memory)
	network, err := New(packetsOf(3, "card"), Config{
		Policy: egress.Policy{}.Denying(allow(t, egress.Open, "bad.example").Allow...), Now: time.Now, Own: nobody,
		Resolvers: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(datagrams)} },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, map[string]string{"tcp": streams, "udp": datagrams}[network])
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = network.Run(context.Background())
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) { // the guest goes, with frames unread
		t.Fatal(err)
	}
}

// flooded is the other process, with the guest that floods it.
type flooded struct {
	*guest
	pid int
}

// TestFloodsTakeLittleMemory lets a guest, and servers that it is in league with,
// do all that makes the network hold something, and measures the process. A guest
// beside it, whose network is another process's, works all the time.
func TestFloodsTakeLittleMemory(t *testing.T) {
	f := newFlooded(t)
	var worst atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			worst.Store(max(worst.Load(), f.memory()))
			time.Sleep(10 * time.Millisecond)
		}
	})
	beside := newGuest(t, egress.Policy{})
	beside.serve(t, besides, echoes)
	watch.Go(func() { worksOn(ctx, t, beside) })
	defer watch.Wait()
	defer stop()
	for _, phase := range []struct {
		name string
		does func(*testing.T)
	}{
		{"idle", func(*testing.T) {}},
		{"questions", f.questions},
		{"datagrams", f.datagrams},
		{"fragments", f.fragments},
		{"pings", f.pings},
		{"streams", f.streams},
		{"again", f.datagrams},
	} {
		phase.does(t)
		t.Logf("%s: now %d MiB, at most %d MiB", phase.name, f.memory()>>20, worst.Load()>>20)
	}
	if most := worst.Load(); most > mostMemory || most == 0 {
		t.Errorf("the process had %d MiB of its own", most>>20)
	}
}

// besides is what the guest beside the flood asks.
const besides = "203.0.113.7:80"

// worksOn asks for an answer over a new connection again and again.
func worksOn(ctx context.Context, t *testing.T, beside *guest) {
	for rounds := 0; ctx.Err() == nil; rounds++ {
		conn, err := beside.tcp(t, besides)
		if err != nil {
			t.Errorf("beside the flood, connection %d: %v", rounds, err)
			return
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Write([]byte("anybody?"))
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 8))
		}
		if err = errors.Join(err, conn.Close()); err != nil {
			t.Errorf("beside the flood, answer %d: %v", rounds, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// newFlooded starts the process, with a server for streams that sends without an end
// and never reads, and one for datagrams that answers with the largest there are.
func newFlooded(t *testing.T) flooded {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{link: lossy{packetsOf(uintptr(pair[0]), "guest")}}
	theirs := os.NewFile(uintptr(pair[1]), "card")
	defer theirs.Close()
	command := exec.Command(os.Args[0], "-test.run=^TestFloodedProcess$")
	command.ExtraFiles = []*os.File{theirs}
	command.Env = append(os.Environ(), "SMOLVM_FLOOD_TCP="+gushes(t), "SMOLVM_FLOOD_UDP="+swells(t))
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	g.boot(t, &running)
	small := tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: 2048, Max: 2048}
	if err := g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &small); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.link.Close()
		running.Wait()
		g.stack.Destroy()
		if err := command.Wait(); err != nil {
			t.Errorf("the process: %v\n%s", err, out.String())
		}
	})
	return flooded{g, command.Process.Pid}
}

// gushes is a server that sends without an end and never reads.
func gushes(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		noise := make([]byte, 64<<10)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				for err == nil {
					_, err = conn.Write(noise)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// swells is a server that answers with the largest datagrams.
func swells(t *testing.T) string {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		in, out := make([]byte, 65535), make([]byte, 65507)
		for {
			_, from, err := conn.ReadFrom(in)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(out, from)
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		running.Wait()
	})
	return conn.LocalAddr().String()
}

// memory is what the process has of its own.
func (f flooded) memory() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// questions asks for more names than anybody answers, over UDP and TCP.
func (f flooded) questions(t *testing.T) {
	conn := f.udp(t, "10.0.2.3:53")
	for i := range 3000 {
		_, _ = conn.Write(query(fmt.Sprintf("a%d.example", i), typeA, true))
	}
	for range 64 {
		stream, err := f.tcp(t, "10.0.2.3:53")
		if err != nil {
			continue // no slot is left
		}
		t.Cleanup(func() { _ = stream.Close() })
		_ = stream.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		for i := range 200 {
			if writeFramed(stream, query(fmt.Sprintf("b%d.example", i), typeA, true)) != nil {
				break
			}
		}
	}
}

// datagrams begins more flows than there may be, and keeps all of them busy.
func (f flooded) datagrams(t *testing.T) {
	data := make([]byte, 60000)
	var conns []net.Conn
	for i := range maxUDP + 50 {
		conns = append(conns, f.udp(t, fmt.Sprintf("203.0.113.%d:%d", 1+i%200, 2000+i)))
	}
	for range 8 {
		for _, conn := range conns {
			_, _ = conn.Write(data)
		}
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// fragments sends first parts of packets whose rest never comes.
func (f flooded) fragments(t *testing.T) {
	for i := range 4000 {
		payload := make([]byte, 8000)
		h := header.IPv4(make([]byte, 20))
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(20 + len(payload)), TTL: 64, Protocol: 17, Flags: header.IPv4FlagMoreFragments, ID: uint16(i),
			SrcAddr: addressOf(guest4), DstAddr: addressOf(target4),
		})
		h.SetChecksum(^h.CalculateChecksum())
		f.frame(t, h, payload)
	}
}

// pings sends large echo requests: to the gateway from guests that are not there, which
// wait for an answer to nobody, and to what is closed.
func (f flooded) pings(t *testing.T) {
	for i := range 8000 {
		payload := make([]byte, 8000)
		payload[0] = byte(header.ICMPv4Echo)
		header.ICMPv4(payload).SetChecksum(header.ICMPv4Checksum(payload, 0))
		from, to := netip.AddrFrom4([4]byte{10, 0, 2, byte(20 + i%200)}), netip.AddrFrom4([4]byte{10, 0, 2, 2})
		if i%2 == 0 {
			to = netip.AddrFrom4([4]byte{10, 99, 0, 1})
		}
		h := header.IPv4(make([]byte, 20))
		h.Encode(&header.IPv4Fields{TotalLength: uint16(20 + len(payload)), TTL: 64, Protocol: 1, SrcAddr: addressOf(from), DstAddr: addressOf(to)})
		h.SetChecksum(^h.CalculateChecksum())
		f.frame(t, h, payload)
	}
}

func (f flooded) frame(t *testing.T, parts ...[]byte) {
	t.Helper()
	ethernet := append([]byte(gatewayMAC+guestMAC), 8, 0)
	if err := f.link.WriteFrame(append([][]byte{ethernet}, parts...)); err != nil {
		t.Fatal(err)
	}
}

// streams opens more connections than there may be. Nothing of what comes is read;
// what is sent nobody reads, or it tells no name to the end.
func (f flooded) streams(t *testing.T) {
	var all sync.WaitGroup
	slots := make(chan struct{}, 20)
	var opened atomic.Int32
	// What came before has used up how many may begin at once.
	patience := time.Now().Add(2 * maxTCP / beginsPerSecond * time.Second)
	for i := range maxTCP + 50 {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			conn, err := f.tcp(t, fmt.Sprintf("203.0.113.%d:%d", 1+i%200, 3000+i))
			for err != nil && opened.Load() < maxTCP && time.Now().Before(patience) {
				time.Sleep(10 * time.Millisecond)
				conn, err = f.tcp(t, fmt.Sprintf("203.0.113.%d:%d", 1+i%200, 3000+i))
			}
			if err != nil {
				return // one too many
			}
			opened.Add(1)
			t.Cleanup(func() { _ = conn.Close() })
			data := append([]byte("\x00"), make([]byte, 1<<20)...)
			if i%2 == 0 {
				data = []byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHeld-100))
			}
			_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = conn.Write(data)
		})
	}
	all.Wait()
	if opened.Load() < 1000 {
		t.Errorf("%d connections were opened", opened.Load())
	}
}
