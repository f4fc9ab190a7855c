package netstack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
)

// FuzzHellos reads TLS clients' hellos as a server does. Where both understand one,
// the gate must not have seen another name than the server.
func FuzzHellos(f *testing.F) {
	f.Add([]byte(helloFor(f, "ok.example")))
	f.Add([]byte(helloFor(f, "")))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		name, ok, more := tlsName(p)
		if more && (ok || name != "") {
			t.Fatal("a name before it can be told")
		}
		if served, heard := serverHears(p); heard && ok && !strings.EqualFold(served, name) {
			t.Fatalf("the server hears %q, the gate %q: %x", served, name, p)
		}
	})
}

// deaf is a connection that says p and hears nothing.
type deaf struct {
	net.Conn
	says *bytes.Reader
}

func (d deaf) Read(p []byte) (int, error)  { return d.says.Read(p) }
func (d deaf) Write(p []byte) (int, error) { return len(p), nil }
func (d deaf) Close() error                { return nil }

var errHeard = errors.New("that is all that is wanted")

// serverHears is the name that a server of crypto/tls reads in a hello.
func serverHears(p []byte) (name string, heard bool) {
	_ = tls.Server(deaf{says: bytes.NewReader(p)}, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name, heard = hello.ServerName, true
		return nil, errHeard
	}}).HandshakeContext(context.Background())
	return name, heard
}

// FuzzRequests reads heads of HTTP/1 requests as a server does. What the gate takes
// must be for the host, and as long, as the server reads it.
func FuzzRequests(f *testing.F) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n",
		"GET http://ok.example:8080/x?y HTTP/1.1\r\nHost: ok.example:8080\r\n\r\n",
		"CONNECT [2001:db8::7]:443 HTTP/1.1\r\nHost: [2001:db8::7]:443\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: ok.example\r\nContent-Length: 12\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: ok.example\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET /chat HTTP/1.1\r\nHost: ok.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
	} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		end := endOfHead(p)
		if end < 0 {
			return
		}
		ours, err := parseRequest(p[:end])
		if err != nil {
			return
		}
		theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p[:end])))
		if err != nil {
			return
		}
		host, _, err := parseAuthority(theirs.Host)
		if err != nil {
			host = theirs.Host
		}
		if !strings.EqualFold(host, ours.host) {
			t.Errorf("the server reads the host %q, the gate %q: %q", theirs.Host, ours.host, p)
		}
		chunked := len(theirs.TransferEncoding) > 0
		if chunked != ours.chunked || !chunked && theirs.ContentLength != int64(ours.length) {
			t.Errorf("the server reads %d bytes (chunked: %v), the gate %d (%v): %q", theirs.ContentLength, chunked, ours.length, ours.chunked, p)
		}
	})
}
