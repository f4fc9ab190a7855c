package carry

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// pair is two ends of a TCP connection.
func pair(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	one, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = one.Close(), two.Close() })
	return one.(*net.TCPConn), two.(*net.TCPConn)
}

// bridge carries a connection over a stream to another: client and server are its
// two far ends.
func bridge(t *testing.T) (client, server *net.TCPConn, stream net.Conn, ended <-chan error) {
	t.Helper()
	client, a := pair(t)
	b, server := pair(t)
	left, right := pair(t)
	ends := make(chan error, 2)
	go func() { ends <- Join(a, bufio.NewReader(left), left) }()
	go func() { ends <- Join(b, bufio.NewReader(right), right) }()
	return client, server, left, ends
}

func TestBytesAndHalfClose(t *testing.T) {
	client, server, _, ended := bridge(t)
	data := make([]byte, 3<<20)
	_, _ = rand.Read(data)
	go func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, err := server.Write([]byte("after the end of the other direction")); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "after the end of the other direction" {
		t.Errorf("%q, %v", got, err)
	}
	for range 2 {
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	}
}

// TestBreaks: a connection that breaks on one side, or the stream between, breaks
// on the other side: nobody takes what is half for the whole.
func TestBreaks(t *testing.T) {
	for name, breaks := range map[string]func(client *net.TCPConn, stream net.Conn){
		"reset": func(client *net.TCPConn, _ net.Conn) {
			_ = client.SetLinger(0)
			_ = client.Close()
		},
		"the link ends": func(_ *net.TCPConn, stream net.Conn) { _ = stream.Close() },
	} {
		client, server, stream, ended := bridge(t)
		_, _ = client.Write([]byte("half"))
		_, _ = io.ReadFull(server, make([]byte, 4))
		breaks(client, stream)
		_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the other side sees %v", name, err)
		}
		<-ended
		<-ended
	}
}

// TestGoneClient: a server that goes on talking to nobody is told, also when its
// client had closed its direction in order.
func TestGoneClient(t *testing.T) {
	client, server, _, ended := bridge(t)
	_ = client.CloseWrite()
	if _, err := io.ReadAll(server); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	_ = server.SetDeadline(time.Now().Add(5 * time.Second))
	for {
		if _, err := server.Write(make([]byte, 1<<10)); err != nil {
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the server sees %v", err)
			}
			break
		}
	}
	<-ended
	<-ended
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 0})
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, stream []byte) {
		here, there := pair(t)
		go func() { _, _ = io.Copy(io.Discard, there) }()
		j := &joint{conn: here}
		if err := j.receive(bytes.NewReader(stream)); err == nil && len(stream) < 2 {
			t.Error("ended without an end")
		}
	})
}
