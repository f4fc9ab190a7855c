package fetch

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/test/faulty"
)

func TestParseContentRange(t *testing.T) {
	first, last, size, err := parseContentRange("bytes 5-9/100")
	if first != 5 || last != 9 || size != 100 || err != nil {
		t.Errorf("%d-%d/%d, %v", first, last, size, err)
	}
	for _, bad := range []string{
		"", "bytes", "bytes ", "bytes 5-9", "bytes 5-9/", "bytes 5-9/*", "bytes */100", "bytes 9-5/100", "bytes 5-100/100", "bytes -9/100", "bytes 5-/100",
		"bytes +5-9/100", "bytes 5-9/+100", "bytes  5-9/100", "bytes 5 - 9/100", "bytes=5-9/100", "Bytes 5-9/100", "bytes 5-9/100, 1-2/3", "bytes 0x5-9/100",
		"bytes 5-9/99999999999999999999", "bytes 5-9/100 ", "bytes ٥-9/100",
	} {
		if first, last, size, err := parseContentRange(bad); err == nil {
			t.Errorf("%q is %d-%d/%d", bad, first, last, size)
		}
	}
}

func TestValidators(t *testing.T) {
	full := validator{true, `"a"`, "Mon", 10}
	for _, same := range []validator{{}, full, {true, `W/"a"`, "Tue", 10}, {true, "", "Mon", -1}, {true, "", "", 10}} {
		if full.differs(same) || same.differs(full) {
			t.Errorf("%+v is of another file", same)
		}
	}
	for _, other := range []validator{{true, `"b"`, "Mon", 10}, {true, `"a"`, "Mon", 11}, {true, "", "Tue", 10}} {
		if !full.differs(other) || !other.differs(full) {
			t.Errorf("%+v is of the same file", other)
		}
	}
	if (validator{etag: `W/"a"`, modified: "Mon"}).strong() != "Mon" || full.strong() != `"a"` || (validator{etag: `W/"a"`}).strong() != "" {
		t.Error("If-Range would hold a weak tag")
	}
}

func TestRedirectRules(t *testing.T) {
	request := func(address string) *http.Request {
		r, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, allowed := range [][2]string{
		{"https://a.example/x", "https://b.example/x"},
		{"http://a.example/x", "https://b.example/x"},
		{"http://127.0.0.1:5000/x", "http://127.0.0.1:9000/x"},
		{"http://192.168.1.2/x", "http://10.0.0.1/x"},
		{"http://192.168.1.2/x", "https://a.example/x"},
	} {
		if err := checkRedirect(request(allowed[1]), []*http.Request{request(allowed[0])}); err != nil {
			t.Errorf("%s: %v", allowed, err)
		}
	}
	for _, to := range []string{
		"http://a.example/x", "ftp://a.example/x", "file:///etc/passwd", "https://127.0.0.1/x", "https://[::1]/x", "https://10.1.2.3/x", "https://172.16.0.1/x",
		"https://192.168.0.1/x", "https://169.254.169.254/latest/meta-data", "https://[fe80::1]/x", "https://[fd00::1]/x", "https://[::ffff:10.0.0.1]/x", "https://0.0.0.0/x",
		"https://localhost/x", "https://LOCALHOST:99/x", "https://a.localhost/x", "https://100.64.0.1/x", "https://224.0.0.1/x",
	} {
		if err := checkRedirect(request(to), []*http.Request{request("https://a.example/x")}); err == nil {
			t.Errorf("redirected to %s", to)
		}
	}
}

// elsewhere is a connection whose peer is said to be somebody else.
type elsewhere struct {
	net.Conn
	peer netip.AddrPort
}

func (e elsewhere) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(e.peer) }

// TestRedirectByName: a name is no way around the rule for addresses.
func TestRedirectByName(t *testing.T) {
	server, manifest := publish(t, "data", []byte("secret"))
	here := strings.TrimPrefix(placeOf(manifest), "http://")
	for name, test := range map[string]struct {
		from, to string // what the two names resolve to
		ok       bool
	}{
		"out to out": {"192.0.2.1", "192.0.2.2", true},
		"out to in":  {"192.0.2.1", "10.0.0.1", false},
		"out to us":  {"192.0.2.1", "127.0.0.1", false},
		"out to us6": {"2001:db8::1", "::1", false},
		"in to in":   {"10.0.0.2", "10.0.0.1", true},
		"in to out":  {"10.0.0.2", "192.0.2.1", true},
	} {
		addresses := map[string]string{"from.example:80": test.from, "to.example:80": test.to}
		transport := newTransport(defaultStall)
		transport.Proxy = nil
		transport.DialContext = guarded(func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, here)
			return elsewhere{c, netip.AddrPortFrom(netip.MustParseAddr(addresses[address]), 80)}, err
		})
		server.Set("start", faulty.Fault{Redirect: "http://to.example/data", Body: []byte{}})
		before := server.Requests("data")
		data, err := New(Options{Transport: transport, Wait: noWait}).Get(t.Context(), "http://from.example/start", 100)
		if (err == nil) != test.ok || test.ok && string(data) != "secret" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if !test.ok && (!strings.Contains(err.Error(), "local network") || server.Requests("data") != before) {
			t.Errorf("%s: %d requests, %v", name, server.Requests("data")-before, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-0/1", "bytes 5-9/100", "bytes */7", "bytes 5-9/*", "bytes 9223372036854775806-9223372036854775807/9223372036854775807", ""} {
		f.Add(seed, int64(0), int64(0))
		f.Add(seed, int64(5), int64(10))
	}
	f.Fuzz(func(t *testing.T, value string, from, to int64) {
		if first, last, size, err := parseContentRange(value); err == nil && (first < 0 || first > last || last >= size) {
			t.Errorf("%q: %d-%d/%d", value, first, last, size)
		}
		if size, err := parseUnsatisfied(value); err == nil && size < 0 {
			t.Errorf("%q: %d", value, size)
		}
		span := Span{from, to}
		if from < 0 || !span.open() && from >= to {
			return
		}
		judgeAny(t, span, http.Header{"Content-Range": {value}}, http.StatusPartialContent)
		judgeAny(t, span, http.Header{"Content-Range": {value}}, http.StatusRequestedRangeNotSatisfiable)
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("120", "Mon, 01 Jan 2001 00:00:00 GMT", `"tag"`, "Mon, 01 Jan 2001 00:00:00 GMT", "text/html", "gzip", 503)
	f.Add("Mon, 01 Jan 2001 00:01:00 GMT", "nonsense", `W/"x"`, "", "multipart/byteranges; boundary=x", "", 206)
	f.Add("99999999999999999999", "", "", "", "", "identity", 429)
	f.Fuzz(func(t *testing.T, after, date, etag, modified, kind, encoding string, status int) {
		h := http.Header{
			"Retry-After": {after}, "Date": {date}, "Etag": {etag}, "Last-Modified": {modified},
			"Content-Type": {kind}, "Content-Encoding": {encoding},
		}
		if d := retryAfter(after, serverTime(h)); d < 0 || d > 1<<31*time.Second {
			t.Errorf("Retry-After %q: %v", after, d)
		}
		judgeAny(t, Span{}, h, status)
		judgeAny(t, Span{1, 3}, h, status)
	})
}

// judgeAny: whatever the headers say, what is accepted is within what was asked for.
func judgeAny(t *testing.T, span Span, h http.Header, status int) {
	t.Helper()
	r := &http.Response{StatusCode: status, Header: h, ContentLength: -1, Body: io.NopCloser(strings.NewReader(""))}
	found, err := (question{address: "http://x/y", span: span}).judge(r)
	switch {
	case err != nil:
		if troubleOf(err).err == nil || err.Error() == "" {
			t.Errorf("an error that says nothing: %v", err)
		}
	case status == http.StatusPartialContent && (span.whole() || found.from != span.From || found.want != span.length(found.size) || found.want <= 0):
		t.Errorf("%v of %q: %+v", span, h, found)
	case status == http.StatusOK && found.from != 0, status != http.StatusOK && status != http.StatusPartialContent:
		t.Errorf("status %d accepted: %+v", status, found)
	}
}
