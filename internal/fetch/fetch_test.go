package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/test/faulty"
)

const text = "the published bytes, long enough to be cut in the middle"

// noWait takes every back-off as over at once.
func noWait(ctx context.Context, _ time.Duration) error { return context.Cause(ctx) }

// serve makes a faulty server of a folder with one file, "file".
func serve(t *testing.T) (*faulty.Server, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	server := faulty.New(dir)
	address, stop := server.Listen()
	t.Cleanup(stop)
	return server, address + "/file"
}

func TestGetByEveryKindOfAddress(t *testing.T) {
	_, address := serve(t)
	path := filepath.Join(t.TempDir(), "a b ü#?.json")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	file := url.URL{Scheme: "file", Path: path}
	for _, a := range []string{address, path, file.String(), strings.Replace(file.String(), "file://", "file://localhost", 1)} {
		got, err := New(Options{}).Get(t.Context(), a, 1000)
		if err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", a, got, err)
		}
	}
}

func TestGetRefuses(t *testing.T) {
	server, address := serve(t)
	header := func(key, value string) http.Header { return http.Header{key: {value}} }
	tests := map[string]struct {
		fault faulty.Fault
		says  string
	}{
		"cut at 0":           {faulty.Fault{Stop: faulty.Cut}, "cut after 0 of"},
		"cut at 1":           {faulty.Fault{Stop: faulty.Cut, After: 1}, "cut after 1 of"},
		"cut at the last":    {faulty.Fault{Stop: faulty.Cut, After: int64(len(text)) - 1}, "cut after"},
		"cut, length hidden": {faulty.Fault{Stop: faulty.Cut, After: 9, Chunked: true}, "cut after 9 bytes"},
		"hangs at once":      {faulty.Fault{Stop: faulty.Hang}, "less than"},
		"hangs later":        {faulty.Fault{Stop: faulty.Hang, After: 20}, "after 20 of"},
		"404":                {faulty.Fault{Status: 404}, "404"},
		"403":                {faulty.Fault{Status: 403}, "403"},
		"416":                {faulty.Fault{Status: 416}, "416"},
		"429":                {faulty.Fault{Status: 429, Header: header("Retry-After", "77")}, "429"},
		"500":                {faulty.Fault{Status: 500}, "500"},
		"206 unasked":        {faulty.Fault{Status: 206}, "206"},
		"204":                {faulty.Fault{Status: 204}, "204"},
		"web page":           {faulty.Fault{Header: header("Content-Type", "text/html")}, "web page"},
		"disguised web page": {faulty.Fault{Body: []byte("\r\n <!DOCTYPE HTML><title>Login</title>")}, "web page"},
		"gzip":               {faulty.Fault{Header: header("Content-Encoding", "gzip")}, "packed again"},
		"too long":           {faulty.Fault{Body: make([]byte, 1001)}, "larger than"},
		"too long, hidden":   {faulty.Fault{Body: make([]byte, 1001), Chunked: true}, "larger than"},
		"redirect loop":      {faulty.Fault{Redirect: address}, "redirects"},
		"redirect to a file": {faulty.Fault{Redirect: "file:///etc/passwd"}, "redirect"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server.Set("file", test.fault)
			_, err := New(Options{Stall: 300 * time.Millisecond, Wait: noWait}).Get(t.Context(), address, 1000)
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), address) {
				t.Errorf("err = %v, want one with %q and the address", err, test.says)
			}
			if fault.CodeOf(err) != fault.Network || fault.HintOf(err) == "" {
				t.Errorf("code %s, hint %q", fault.CodeOf(err), fault.HintOf(err))
			}
			if errors.Is(err, ErrUnreachable) {
				t.Error("a server that answered counts as unreachable")
			}
			if (name == "403") != errors.Is(err, ErrForbidden) {
				t.Errorf("is ErrForbidden: %v", errors.Is(err, ErrForbidden))
			}
			if (name == "404") != errors.Is(err, fs.ErrNotExist) {
				t.Error("wrongly told that it is not there")
			}
		})
	}
}

func TestRetryAfterIsTold(t *testing.T) {
	server, address := serve(t)
	server.Set("file", faulty.Fault{Status: 503, Header: http.Header{"Retry-After": {"77"}}})
	_, err := New(Options{}).Get(t.Context(), address, 1000)
	if !strings.Contains(fault.HintOf(err), "77") {
		t.Errorf("hint %q", fault.HintOf(err))
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + listener.Addr().String() + "/manifest.json"
	listener.Close()
	_, err = New(Options{}).Get(t.Context(), address, 1000)
	if !errors.Is(err, ErrUnreachable) || !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), address) {
		t.Errorf("refused: %v", err)
	}
	if strings.Contains(err.Error(), "Get \"") || !strings.Contains(fault.HintOf(err), "listens") {
		t.Errorf("refused: %v, hint %q", err, fault.HintOf(err))
	}
}

func TestLocalFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for address, notThere := range map[string]bool{
		filepath.Join(dir, "none"): true, "file://" + dir + "/none": true,
		dir: false, fifo: false, "file://elsewhere/x": false, "oci://registry/image": false, "ftp://host/x": false, "file://": false,
	} {
		_, _, err := New(Options{}).Open(t.Context(), address)
		if err == nil || errors.Is(err, fs.ErrNotExist) != notThere || fault.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", address, err, fault.HintOf(err))
		}
	}
}

func TestCancelEndsAStream(t *testing.T) {
	server, address := serve(t)
	server.Set("file", faulty.Fault{Stop: faulty.Hang, After: 10})
	ctx, cancel := context.WithCancel(t.Context())
	stream, size, err := New(Options{}).Open(ctx, address)
	if err != nil || size != int64(len(text)) {
		t.Fatal(size, err)
	}
	defer stream.Close()
	if _, err := io.ReadFull(stream, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := stream.Read(make([]byte, 10)); fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("err = %v (%s)", err, fault.CodeOf(err))
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	_, err := New(Options{}).Get(t.Context(), "http://user:geheim@127.0.0.1:1/x", 10)
	if err == nil || strings.Contains(err.Error(), "geheim") || !strings.Contains(err.Error(), "user") {
		t.Errorf("err = %v", err)
	}
}

func TestDownThroughTLSIsRefused(t *testing.T) {
	_, address := serve(t)
	server := httptest.NewTLSServer(http.RedirectHandler(address, http.StatusFound))
	defer server.Close()
	_, err := New(Options{Transport: server.Client().Transport}).Get(t.Context(), server.URL, 1000)
	if err == nil || !strings.Contains(err.Error(), "from https") || fault.CodeOf(err) != fault.Network {
		t.Errorf("err = %v", err)
	}
	_, err = New(Options{}).Get(t.Context(), server.URL, 1000)
	if err == nil || !strings.Contains(fault.HintOf(err), "SSL_CERT_FILE") {
		t.Errorf("unknown CA: %v, hint %q", err, fault.HintOf(err))
	}
}

func TestBeside(t *testing.T) {
	for address, want := range map[string]string{
		"/a/b/manifest.json":                 "/a/b/x.zst",
		"manifest.json":                      "x.zst",
		"http://h/a/manifest.json":           "http://h/a/x.zst",
		"http://h/manifest.json?token=1#f":   "http://h/x.zst",
		"https://u:p@h:1/a%20b/m":            "https://u:p@h:1/a%20b/x.zst",
		"file:///a/manifest.json":            "file:///a/x.zst",
		"oci://h:5000/a/b:tag#manifest.json": "oci://h:5000/a/b:tag#x.zst",
		"oci://h:5000/a/b":                   "oci://h:5000/a/b#x.zst",
	} {
		if got := Beside(address, "x.zst"); got != want {
			t.Errorf("Beside(%s) = %s, want %s", address, got, want)
		}
	}
}

// drip is a body that gives some bytes after each wait.
type drip struct {
	wait  time.Duration
	bytes int
	left  int
	ctx   context.Context
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(d.wait):
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
	d.left--
	return min(d.bytes, len(p)), nil
}

func (d *drip) Close() error { return nil }

// The clock of these is synctest's: no second of them is waited.
func TestRateFloor(t *testing.T) {
	tests := map[string]struct {
		wait  time.Duration
		bytes int
		parts int
		pause time.Duration // of the reader
		ok    bool
	}{
		"fast":                 {time.Second, 4000, 600, 0, true},
		"just enough":          {time.Second, 1100, 600, 0, true},
		"drip":                 {time.Second, 1, 600, 0, false},
		"a drop in 29 seconds": {29 * time.Second, 100, 10, 0, false},
		"silence":              {time.Hour, 4000, 3, 0, false},
		"slow reader":          {10 * time.Millisecond, 100, 1000, time.Minute, true},
		"bursts":               {29 * time.Second, 40_000, 10, 0, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				s := &Stream{
					address: "x", body: &drip{test.wait, test.bytes, test.parts, ctx}, Size: -1, want: -1,
					cancel: cancel, cause: func() error { return context.Cause(ctx) }, stall: defaultStall, floor: defaultFloor,
				}
				defer s.Close()
				begun := time.Now()
				buffer := make([]byte, 64<<10)
				var err error
				for err == nil {
					_, err = s.Read(buffer)
					time.Sleep(test.pause)
				}
				if (err == io.EOF) != test.ok {
					t.Errorf("err = %v", err)
				}
				if waited := time.Since(begun); !test.ok && waited > 2*defaultStall {
					t.Errorf("noticed after %v", waited)
				}
			})
		})
	}
}

func TestBytesArriveWhole(t *testing.T) {
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(filepath.Join(dir, "big"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	server := faulty.New(dir)
	address, stop := server.Listen()
	defer stop()
	got, err := New(Options{}).Get(t.Context(), address+"/big", int64(len(want)))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestShownHidesSecrets(t *testing.T) {
	for address, want := range map[string]string{
		"https://h/m.json?token=secret":       "https://h/m.json",
		"https://me:secret@h/m.json?t=secret": "https://me:xxxxx@h/m.json",
		"https://me:se%cret@h/m?secret":       "https://h/m",
		"oci://h/i:1#manifest.json":           "oci://h/i:1#manifest.json",
		"/srv/a?b@c":                          "/srv/a?b@c",
	} {
		if got := Shown(address); got != want {
			t.Errorf("%s is shown as %s", address, got)
		}
	}
}
