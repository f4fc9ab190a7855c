//go:build linux

package port

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/carry"
	"github.com/smolvm/smolvm/internal/wire"
)

// ask sends a request and reads the answer; the stream stays open.
func ask(t *testing.T, r string) (wire.PortAnswer, *bufio.Reader, net.Conn) {
	t.Helper()
	host, guest := net.Pipe()
	t.Cleanup(func() { _ = host.Close() })
	go func() { _ = New("/proc").Serve(t.Context(), guest) }()
	if _, err := host.Write([]byte(r + "\n")); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(host)
	line, err := in.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a wire.PortAnswer
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatal(err)
	}
	return a, in, host
}

func TestDial(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("not on this computer: %v", err)
			continue
		}
		defer l.Close()
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, _ = conn.Write([]byte("hello\n"))
				_ = conn.Close()
			}
		}()
		port := l.Addr().(*net.TCPAddr).Port
		request, _ := json.Marshal(wire.PortRequest{Op: wire.PortDial, Port: port})
		a, in, stream := ask(t, string(request))
		if a.Error != "" {
			t.Fatalf("%s: %s", address, a.Error)
		}
		ours, far := tcpPair(t)
		go func() { _ = carry.Join(far, in, stream) }()
		if line, err := bufio.NewReader(ours).ReadString('\n'); err != nil || line != "hello\n" {
			t.Errorf("%s: %q, %v", address, line, err)
		}
	}
}

func tcpPair(t *testing.T) (one, two *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	request, _ := json.Marshal(wire.PortRequest{Op: wire.PortDial, Port: port})
	for text, want := range map[string]string{
		string(request): "refused", `{"op":"dance"}`: "unknown operation", `{"op":`: "cannot be read",
	} {
		if a, _, _ := ask(t, text); !strings.Contains(a.Error, want) {
			t.Errorf("%s: %q", text, a.Error)
		}
	}
}

// TestListOfThisComputer finds a listener of this very process.
func TestListOfThisComputer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	comm, _ := os.ReadFile("/proc/self/comm")
	want := wire.Listening{Port: l.Addr().(*net.TCPAddr).Port, Address: "127.0.0.1", Program: strings.TrimSpace(string(comm))}
	a, _, _ := ask(t, `{"op":"list"}`)
	for _, got := range a.Listening {
		if got == want {
			return
		}
	}
	t.Errorf("%+v is not in %+v", want, a)
}

func TestKernelsList(t *testing.T) {
	const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	proc := t.TempDir()
	for name, text := range map[string]string{
		"net/tcp": header + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0 0 10 0\n" +
			"   1: 0100007F:1F91 00000000:0000 01 00000000:00000000 00:00000000 00000000  1000        0 12 1 0 100 0 0 10 0\n",
		"net/tcp6": header + "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0 100 0 0 10 0\n" +
			"   1: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 14 1 0 100 0 0 10 0\n",
		"7/comm": "node\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(proc, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(proc, "7/fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[13]", filepath.Join(proc, "7/fd/3")); err != nil {
		t.Fatal(err)
	}
	got, err := New(proc).list()
	if err != nil {
		t.Fatal(err)
	}
	want := []wire.Listening{{Port: 80, Address: "::", Program: "node"}, {Port: 81, Address: "::1"}, {Port: 8080, Address: "127.0.0.1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzReadSockets(f *testing.F) {
	f.Add(" 0: 0100007F:1F90 0:0 0A 0 0 0 0 0 11")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = readSockets(strings.NewReader(text)) })
}
