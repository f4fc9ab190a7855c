package firecracker

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm/firecracker/apitest"
)

// serve starts a scripted server and gives a client of it.
func serve(t *testing.T, s *apitest.Server) *client {
	t.Helper()
	s.Version = cmp.Or(s.Version, "1.12.1")
	path := filepath.Join(t.TempDir(), "api")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	c := newClient(path)
	t.Cleanup(func() { c.close(); _ = l.Close(); <-done })
	return c
}

func TestCalls(t *testing.T) {
	s := &apitest.Server{}
	c := serve(t, s)
	var i instance
	if err := c.get(t.Context(), "/", "the machine", &i); err != nil || i.Version != "1.12.1" || i.State != "Not started" {
		t.Fatalf("%+v, %v", i, err)
	}
	first := c.conn
	for _, step := range []struct {
		path string
		body any
	}{
		{"/machine-config", machineConfig{CPUs: 2, MemoryMiB: 512}},
		{"/boot-source", bootSource{Kernel: "/kernel", Args: "quiet"}},
		{"/drives/layer0", driveConfig{ID: "layer0", Path: "/drives/layer0", ReadOnly: true, Cache: unsafe}},
		{"/vsock", vsockConfig{CID: 3, Socket: "/run/vsock"}},
		{"/balloon", balloonConfig{Deflate: true, Interval: 5}},
		{"/entropy", entropyConfig{}},
		{"/actions", action{startInstance}},
	} {
		if err := c.put(t.Context(), step.path, step.path, step.body); err != nil {
			t.Error(err)
		}
	}
	if c.conn != first {
		t.Error("a connection that was as good as new was not kept")
	}
	if err := c.patch(t.Context(), "/vm", "the machine", vmState{paused}); err != nil {
		t.Error(err)
	}
	if err := c.get(t.Context(), "/", "the machine", &i); err != nil || i.State != "Paused" {
		t.Errorf("%+v, %v", i, err)
	}
	if err := c.patch(t.Context(), "/drives/layer0", "the drive", driveUpdate{ID: "layer0", Path: "/drives/layer0"}); err != nil {
		t.Error(err)
	}
	if err := c.patch(t.Context(), "/drives/other", "the drive", driveUpdate{ID: "other", Path: "/drives/other"}); err == nil {
		t.Error("a drive that is not there was changed")
	}
	if got := s.Carried(); len(got) != 9 || !slices.Contains(got, "PUT /drives/layer0") {
		t.Errorf("carried out: %q", got)
	}
}

// TestRefusals: an error names what was asked, of which object, and Firecracker's
// reason, and the connection can be used again.
func TestRefusals(t *testing.T) {
	c := serve(t, &apitest.Server{})
	for _, call := range []struct {
		do   func() error
		want string
	}{
		{func() error { return c.put(t.Context(), "/actions", "the start", action{startInstance}) }, "set the start with Firecracker: Start microvm error"},
		{func() error {
			return c.put(t.Context(), "/serial", "the serial port", map[string]string{"serial_out_path": "/x"})
		}, "set the serial port with Firecracker: Invalid request"},
		{func() error { return c.put(t.Context(), "/entropy", "the random source", map[string]int{"speed": 1}) }, "unknown field `speed`"},
		{func() error { return c.patch(t.Context(), "/vm", "the machine", vmState{paused}) }, "change the machine with Firecracker: "},
	} {
		err := call.do()
		var refused *refusal
		if !errors.As(err, &refused) || refused.Status != 400 || !strings.Contains(err.Error(), call.want) {
			t.Errorf("%v, want %q", err, call.want)
		}
	}
	if c.conn == nil {
		t.Error("a refusal ended the connection")
	}
	long := bootSource{Args: strings.Repeat("x", maxRequest)}
	if err := c.put(t.Context(), "/boot-source", "the kernel", long); err == nil || !strings.Contains(err.Error(), "takes 51200") {
		t.Errorf("a body that is too long: %v", err)
	}
}

// TestStrangeAnswers: whatever comes, there is an error in time, the connection is
// given up, and the next call goes on with another.
func TestStrangeAnswers(t *testing.T) {
	for name, bytes := range map[string]string{
		"nothing":         "",
		"not HTTP":        "hello\r\n\r\n",
		"half a head":     "HTTP/1.1 200 OK\r\nContent-Le",
		"half a body":     "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\":",
		"not JSON":        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"a redirect":      "HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n",
		"endless head":    "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 2000),
		"endless body":    "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + strings.Repeat(" ", 2<<20),
		"chunked nothing": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"continue":        "HTTP/1.1 100 Continue\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			once := true
			c := serve(t, &apitest.Server{Misbehave: func(string) []byte {
				if !once {
					return nil
				}
				once = false
				return append([]byte{}, bytes...)
			}})
			var i instance
			if err := c.get(t.Context(), "/", "the machine", &i); err == nil || !strings.Contains(err.Error(), "the machine") {
				t.Fatalf("%v, %+v", err, i)
			}
			if c.conn != nil {
				t.Error("the connection is kept")
			}
			if err := c.get(t.Context(), "/", "the machine", &i); err != nil || i.Version != "1.12.1" {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// TestMoreThanAsked: bytes behind an answer are never taken for the next one.
func TestMoreThanAsked(t *testing.T) {
	one := "HTTP/1.1 204 \r\n\r\n"
	c := serve(t, &apitest.Server{Misbehave: func(r string) []byte {
		if r == "PUT /entropy" {
			return []byte(one + one)
		}
		return nil
	}})
	if err := c.put(t.Context(), "/entropy", "the random source", entropyConfig{}); err != nil {
		t.Fatal(err)
	}
	if c.conn != nil {
		t.Error("the connection with an answer too much is kept")
	}
}

func TestSilence(t *testing.T) {
	c := &client{dial: func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends with the connection
		return ours, nil
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.get(ctx, "/", "the machine", nil); !errors.Is(err, context.DeadlineExceeded) || c.conn != nil {
		t.Errorf("%v, connection %v", err, c.conn)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 400 \r\nContent-Length: 24\r\n\r\n{\"fault_message\":\"no\x1b\"}",
		"HTTP/1.1 413 \r\nContent-Length: 14\r\n\r\n{\"error\":\"no\"}",
		"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	request, err := newRequest(http.MethodGet, "/", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		in := bufio.NewReader(io.LimitReader(strings.NewReader(string(answer)), maxAnswer))
		said, stays, err := readAnswer(in, request)
		var refused *refusal
		switch {
		case len(said) > maxAnswer:
			t.Errorf("%d bytes", len(said))
		case errors.As(err, &refused):
			if strings.ContainsFunc(refused.Text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
				t.Errorf("control characters are shown: %q", refused.Text)
			}
		case err != nil && (stays || said != nil):
			t.Errorf("an answer that is none counts: %v", err)
		}
	})
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"Firecracker v1.10.0\n":               "",
		"Firecracker v1.12.1\n\n2026 exiting": "",
		"Firecracker v1.16.1-dirty\n":         "",
		"Firecracker v1.9.1\n":                "older than 1.10",
		"Firecracker v0.25.2\n":               "older than 1.10",
		"Firecracker v2.0.0\n":                "knows the API of versions 1",
		"QEMU emulator version 9.2.0\n":       "is not Firecracker",
		"":                                    "is not Firecracker",
		"Firecracker v1." + fmt.Sprint(1<<62) + "0000\n": "",
	} {
		p := Program{Path: "/x"}
		err := p.setVersion(text)
		if want == "" && err != nil && !strings.Contains(text, "0000") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
