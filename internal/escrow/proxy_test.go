package escrow

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	apiHost = "api.example.com"
	secret  = "sk-real-5f1d0c77ab2190be4c31aa08"
)

// world is an API over real TLS, a proxy to it, and a guest that trusts only the
// proxy's authority.
type world struct {
	proxy  *Proxy
	api    *httptest.Server
	secret Secret
	log    *bytes.Buffer
	mu     sync.Mutex
	seen   []*http.Request // by the API
	bodies []string
	guest  *http.Client
	dial   func() net.Conn
	name   string // that the guest's connections are for
}

// certified makes an API's certificate and the pool that knows its authority.
func certified(t *testing.T, host string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	ca, err := newAuthority([]string{host}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.leaf(host)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return *leaf, pool
}

func newWorld(t *testing.T, handle http.HandlerFunc, rules ...Rule) *world {
	t.Helper()
	if len(rules) == 0 {
		rules = []Rule{{Host: apiHost, Port: 443, Header: "X-Api-Key"}, {Host: apiHost, Port: 443, Header: "Authorization"}}
	}
	w := &world{log: &bytes.Buffer{}, name: apiHost}
	w.secret = Secret{Name: "API_KEY", Value: secret, Placeholder: Placeholder("sk-", "i-1", "API_KEY"), Rules: rules}
	cert, roots := certified(t, apiHost)
	w.api = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		w.seen, w.bodies = append(w.seen, r), append(w.bodies, string(body))
		w.mu.Unlock()
		handle(rw, r)
	}))
	w.api.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	w.api.EnableHTTP2 = true
	w.api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	w.api.StartTLS()
	t.Cleanup(w.api.Close)
	w.start(t, roots)
	return w
}

func (w *world) start(t *testing.T, roots *x509.CertPool) {
	t.Helper()
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(w.log, nil))
	proxy, err := New(Config{Secrets: []Secret{w.secret}, Roots: roots, Now: time.Now, Log: func(msg string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		log.Warn(msg, args...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.proxy = proxy
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := proxy.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	w.dial = func() net.Conn {
		ours, theirs := pair(t)
		running.Go(func() {
			proxy.Take(theirs, w.name, 443, func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", w.api.Listener.Addr().String())
			})
		})
		return ours
	}
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(proxy.Certificate())
	transport := &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return w.dial(), nil },
		TLSClientConfig: &tls.Config{RootCAs: trust}, ForceAttemptHTTP2: true,
	}
	w.guest = &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		running.Wait()
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log has the secret: %s", w.log)
		}
	})
}

// pair is a connection over loopback.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// ask sends a request with headers in pairs, and gives status and body.
func (w *world) ask(t *testing.T, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if r.Header.Get("Host") != "" {
		r.Host = r.Header.Get("Host")
	}
	res, err := w.guest.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(raw)
}

func hello(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }

func TestSecretTakesThePlaceOfItsPlaceholder(t *testing.T) {
	w := newWorld(t, hello)
	for _, proto := range []string{"HTTP/2.0", "HTTP/1.1"} {
		if proto == "HTTP/1.1" {
			w.guest.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"http/1.1"}
			w.guest.Transport.(*http.Transport).ForceAttemptHTTP2 = false
			w.guest.Transport.(*http.Transport).CloseIdleConnections()
		}
		basic := base64.StdEncoding.EncodeToString([]byte("x:" + w.secret.Placeholder))
		for sent, want := range map[string]string{
			w.secret.Placeholder: secret, "Bearer " + w.secret.Placeholder: "Bearer " + secret,
			"Basic " + basic: "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+secret)), "Bearer other": "Bearer other",
		} {
			res, body := w.ask(t, "POST", "https://"+apiHost+"/v1?a=b;c&d", "text", "Authorization", sent, "X-Other", w.secret.Placeholder, "X-Forwarded-For", "1.2.3.4")
			got := w.seen[len(w.seen)-1]
			if body != "hello" || res.Proto != proto || got.Header.Get("Authorization") != want || got.URL.String() != "/v1?a=b;c&d" ||
				got.Host != apiHost || w.bodies[len(w.bodies)-1] != "text" {
				t.Errorf("%s, %s: answered %q over %s; the API got %s %+v", proto, sent, body, res.Proto, got.URL, got.Header)
			}
			if got.Header.Get("X-Other") != w.secret.Placeholder || got.Header.Get("X-Forwarded-For") != "1.2.3.4" || got.Header.Get("Via") != "" {
				t.Errorf("what no rule names was changed: %+v", got.Header)
			}
		}
	}
}

// TestOthersDoNotGetTheSecret has what looks like the API without its certificate,
// and requests that name another host.
func TestOthersDoNotGetTheSecret(t *testing.T) {
	w := newWorld(t, hello)
	_, others := certified(t, apiHost)
	w.start(t, others) // trusts another authority than the API's
	res, body := w.ask(t, "GET", "https://"+apiHost+"/", "", "X-Api-Key", w.secret.Placeholder)
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "certificate") || len(w.seen) != 0 {
		t.Errorf("a wrong certificate gave %d %q, the API saw %d requests", res.StatusCode, body, len(w.seen))
	}
	w = newWorld(t, hello)
	for _, host := range []string{"evil.example.com", apiHost + ":444", "sub." + apiHost} {
		res, _ := w.ask(t, "GET", "https://"+apiHost+"/", "", "Host", host, "X-Api-Key", w.secret.Placeholder)
		if res.StatusCode != http.StatusMisdirectedRequest || len(w.seen) != 0 {
			t.Errorf("host %s: %d, the API saw %d requests", host, res.StatusCode, len(w.seen))
		}
	}
}

// TestCertificateIsForTheRuleOnly asks the proxy for another host's certificate.
func TestCertificateIsForTheRuleOnly(t *testing.T) {
	w := newWorld(t, hello)
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(w.proxy.Certificate())
	conn := tls.Client(w.dial(), &tls.Config{RootCAs: trust, ServerName: "www.example.com"})
	defer conn.Close()
	if err := conn.HandshakeContext(t.Context()); err == nil {
		t.Error("it speaks for another host")
	}
	if _, err := w.proxy.authority.leaf("www.example.org"); err != nil {
		t.Fatal(err)
	}
	leaf, _ := w.proxy.authority.leaf("www.example.org")
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: trust, DNSName: "www.example.org"}); err == nil {
		t.Error("a guest would believe its authority for any host")
	}
	if a, _ := w.proxy.authority.leaf(apiHost); a == nil {
		t.Error("no certificate")
	} else if b, _ := w.proxy.authority.leaf(apiHost); a != b {
		t.Error("certificates are made for each connection")
	}
}

func TestLeavesAreMadeAnewBeforeTheyEnd(t *testing.T) {
	now := time.Now()
	a, err := newAuthority([]string{apiHost}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	first, _ := a.leaf(apiHost)
	now = now.Add(leafLife - leafSpare + time.Minute)
	second, err := a.leaf(apiHost)
	if err != nil || first == second || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Errorf("a certificate that ends in %v is used: %v", first.Leaf.NotAfter.Sub(now), err)
	}
	now = now.Add(authorityLife)
	if _, err := a.leaf(apiHost); err == nil {
		t.Error("an authority that has ended makes certificates")
	}
}

func TestRedirects(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	for to, want := range map[string]int{
		"/other": 307, "https://" + apiHost + "/x": 307, "https://" + apiHost + ":443/x": 307, "https://API.example.com/x": 307,
		"https://evil.example.com/x": 502, "http://" + apiHost + "/x": 502, "https://" + apiHost + ":8443/x": 502, "//evil.example.com/x": 502,
		"https://" + apiHost + ".evil.com/": 502, "https://" + apiHost + "@evil.com/": 502,
	} {
		at := "https://" + apiHost + "/?to=" + url.QueryEscape(to)
		res, body := w.ask(t, "GET", at, "", "X-Api-Key", w.secret.Placeholder)
		if res.StatusCode != want || want == 502 && !strings.Contains(body, "redirects") {
			t.Errorf("to %s: %d %q, want %d", to, res.StatusCode, body, want)
		}
		if res, _ := w.ask(t, "GET", at, ""); res.StatusCode != 307 {
			t.Errorf("to %s without a credential: %d", to, res.StatusCode)
		}
	}
}

// TestEchoesAreCovered has an API that repeats what it got, wherever it can.
func TestEchoesAreCovered(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("X-Api-Key")
		w.Header().Set("X-Echo", "got "+key)
		w.Header().Set("Link", key)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Late")
		fmt.Fprint(w, "your key is "+key[:7])
		w.(http.Flusher).Flush()
		fmt.Fprint(w, key[7:]+", and again "+key+key+"!")
		w.Header().Set("X-Late", key)
	})
	res, body := w.ask(t, "GET", "https://"+apiHost+"/", "", "X-Api-Key", w.secret.Placeholder)
	stars := strings.Repeat("*", len(secret))
	if body != "your key is "+stars+", and again "+stars+stars+"!" {
		t.Errorf("the body is %q", body)
	}
	if res.Header.Get("X-Echo") != "got "+stars || res.Trailer.Get("X-Late") != stars {
		t.Errorf("headers are %+v, trailers %+v", res.Header, res.Trailer)
	}
	if w.seen[0].Header.Get("X-Api-Key") != secret {
		t.Fatal("the API had nothing to echo")
	}
}

func TestEarlyHintsAreCovered(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", r.Header.Get("X-Api-Key"))
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "hello")
	})
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(w.proxy.Certificate())
	conn := tls.Client(w.dial(), &tls.Config{RootCAs: trust, ServerName: apiHost})
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nConnection: close\r\n\r\n", apiHost, w.secret.Placeholder)
	raw, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(raw, []byte("103 Early Hints")) || !bytes.Contains(raw, []byte("hello")) || bytes.Contains(raw, []byte(secret)) {
		t.Errorf("got %q, %v", raw, err)
	}
}

func TestCompressedAnswers(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		fmt.Fprint(w, r.Header.Get("Accept-Encoding"))
	})
	if res, body := w.ask(t, "GET", "https://"+apiHost+"/", "", "X-Api-Key", w.secret.Placeholder, "Accept-Encoding", "gzip"); res.StatusCode != 502 || !strings.Contains(body, "compressed") {
		t.Errorf("with a credential: %d %q", res.StatusCode, body)
	}
	if res, body := w.ask(t, "GET", "https://"+apiHost+"/", "", "Accept-Encoding", "gzip"); res.StatusCode != 200 || body != "identity" {
		t.Errorf("without: %d %q", res.StatusCode, body)
	}
}

// TestEventsComeAtOnce reads each event before the next one is sent.
func TestEventsComeAtOnce(t *testing.T) {
	next := make(chan struct{})
	w := newWorld(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d s\n\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	r, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+apiHost+"/", nil)
	r.Header.Set("X-Api-Key", w.secret.Placeholder)
	res, err := w.guest.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if _, err2 := lines.ReadString('\n'); err != nil || err2 != nil || line != fmt.Sprintf("data: %d s\n", i) {
			t.Fatalf("event %d is %q, %v", i, line, err)
		}
		next <- struct{}{}
	}
}

// TestUpgradedConnections leaves HTTP, as web sockets do.
func TestUpgradedConnections(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		defer conn.Close()
		fmt.Fprint(buf, "HTTP/1.1 101 "+r.Header.Get("X-Api-Key")+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_ = buf.Flush()
		line, _ := buf.ReadString('\n')
		fmt.Fprint(buf, r.Header.Get("X-Api-Key")+" "+line)
		_ = buf.Flush()
	})
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(w.proxy.Certificate())
	conn := tls.Client(w.dial(), &tls.Config{RootCAs: trust, ServerName: apiHost})
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", apiHost, w.secret.Placeholder)
	lines := bufio.NewReader(conn)
	head, err := lines.ReadString('\n')
	for line := head; err == nil && line != "\r\n"; head += line {
		line, err = lines.ReadString('\n')
	}
	fmt.Fprint(conn, "ping\n") // nobody speaks before the answer
	rest, _ := io.ReadAll(lines)
	raw := append([]byte(head), rest...)
	if err != nil || !bytes.HasSuffix(raw, []byte(strings.Repeat("*", len(secret))+" ping\n")) || bytes.Contains(raw, []byte(secret)) || !bytes.Contains(raw, []byte("HTTP/1.1 101")) {
		t.Errorf("got %q, %v", raw, err)
	}
}

// TestBrokenAnswersDoNotTellTheSecret has an API whose answer is no HTTP, which
// errors quote.
func TestBrokenAnswersDoNotTellTheSecret(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(buf, "HTTP/1.1 "+r.Header.Get("X-Api-Key")+"\r\n\r\n")
		_ = buf.Flush()
	})
	w.api.TLS.NextProtos = []string{"http/1.1"}
	res, body := w.ask(t, "GET", "https://"+apiHost+"/", "", "X-Api-Key", w.secret.Placeholder)
	if res.StatusCode != 502 || strings.Contains(body, secret) || body == "" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

func TestPrintingASecretShowsItsName(t *testing.T) {
	s := Secret{Name: "API_KEY", Value: secret}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "secret", s, "all", []Secret{s})
	if text := fmt.Sprintf("%v %+v %#v %s %v", s, s, s, s, []Secret{s}) + out.String(); strings.Contains(text, secret) {
		t.Errorf("printed as %s", text)
	}
}

func TestSecretsThatCannotBe(t *testing.T) {
	for value, ok := range map[string]bool{
		secret: true, "short": false, "": false, strings.Repeat("x", MaxSecret): true, strings.Repeat("x", MaxSecret+1): false,
		"has space in": false, "has\nline in": false, "naïve-secret": false,
	} {
		if err := Check(value); (err == nil) != ok || err != nil && len(value) > 6 && strings.Contains(err.Error(), value) {
			t.Errorf("%.20q: %v", value, err)
		}
	}
}

func TestFields(t *testing.T) {
	w := newWorld(t, hello, Rule{Host: apiHost, Port: 443, Field: "client_secret"})
	hold := w.secret.Placeholder
	for _, c := range []struct{ kind, body, want string }{
		{"application/json", `{ "a":1, "client_secret" : "` + hold + `", "b": {"client_secret":"` + hold + `"}}`, `{ "a":1, "client_secret" : "` + secret + `", "b": {"client_secret":"` + hold + `"}}`},
		{"application/problem+json; charset=utf-8", `{"client_secret":"x ` + hold + `"}`, `{"client_secret":"x ` + secret + `"}`},
		{"application/json", `{"other":"` + hold + `"}`, `{"other":"` + hold + `"}`},
		{"application/json", `["client_secret","` + hold + `"]`, `["client_secret","` + hold + `"]`},
		{"application/json", `{"client_secret":"` + hold + `"} {}`, `{"client_secret":"` + hold + `"} {}`},
		{"application/json", `{"client_secret":"` + hold, `{"client_secret":"` + hold},
		{"application/x-www-form-urlencoded", "a=%20&client_secret=" + hold + "&b=" + hold, "a=%20&client_secret=" + secret + "&b=" + hold},
		{"text/plain", "client_secret=" + hold, "client_secret=" + hold},
		{"application/json", `{"client_secret":"` + hold + `","pad":"` + strings.Repeat("x", maxFields) + `"}`, `{"client_secret":"` + hold + `","pad":"` + strings.Repeat("x", maxFields) + `"}`},
	} {
		_, body := w.ask(t, "POST", "https://"+apiHost+"/token", c.body, "Content-Type", c.kind, "X-Api-Key", hold)
		got := w.bodies[len(w.bodies)-1]
		if body != "hello" || got != c.want || w.seen[len(w.seen)-1].Header.Get("X-Api-Key") != hold {
			t.Errorf("%s %.200s became %.200s", c.kind, c.body, got)
		}
	}
}

// FuzzFields: what comes out is JSON where it was, and holds the secret only where
// the field did the placeholder.
func FuzzFields(f *testing.F) {
	s := Secret{Value: "the-secret", Placeholder: "placeholder"}
	f.Add([]byte(`{"key":"placeholder","a":["placeholder"],"b":{"key":"placeholder"}}`))
	f.Add([]byte(`{"key":"\u0070laceholder", "key":"placeholder" } `))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, changed := putJSON(bytes.Clone(raw), "key", s)
		if !changed {
			if !bytes.Equal(got, raw) {
				t.Fatalf("%q became %q", raw, got)
			}
			return
		}
		var before, after map[string]any
		if json.Unmarshal(raw, &before) != nil || json.Unmarshal(got, &after) != nil || len(before) != len(after) {
			t.Fatalf("%q became %q", raw, got)
		}
		for key, value := range after {
			if text, _ := value.(string); key != "key" && strings.Contains(text, s.Value) && !bytes.Contains(raw, []byte(s.Value)) {
				t.Fatalf("%q became %q", raw, got)
			}
		}
	})
}

// FuzzVeil cuts an answer into pieces: no secret may come through, and nothing
// else may be changed.
func FuzzVeil(f *testing.F) {
	f.Add([]byte("a secret12 b"), byte(3))
	f.Add([]byte("secresecret12secret123456"), byte(1))
	f.Fuzz(func(t *testing.T, data []byte, size byte) {
		v := newVeil([]Secret{{Value: "secret12"}, {Value: "secret123456"}})
		src := &pieces{data: data, size: int(size)%17 + 1}
		got, err := io.ReadAll(v.body(io.NopCloser(src), nil))
		want := bytes.Clone(data)
		v.cover(want)
		if err != nil || !bytes.Equal(got, want) && bytes.Contains(got, []byte("secret12")) || len(got) != len(data) {
			t.Fatalf("%q in pieces of %d gave %q, want %q, %v", data, src.size, got, want, err)
		}
		for i := range got {
			if got[i] != data[i] && got[i] != '*' {
				t.Fatalf("byte %d of %q was changed: %q", i, data, got)
			}
		}
	})
}

type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.data)
	p.data = p.data[n:]
	return n, nil
}

// TestConnectionsAreBounded opens more than a guest may have.
func TestConnectionsAreBounded(t *testing.T) {
	w := newWorld(t, hello)
	for range maxTaken {
		conn := w.dial()
		t.Cleanup(func() { _ = conn.Close() })
	}
	for deadline := time.Now().Add(10 * time.Second); len(w.proxy.slots) < maxTaken; { // they are taken one by one
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are taken", len(w.proxy.slots))
		}
		runtime.Gosched()
	}
	more := w.dial()
	defer more.Close()
	_ = more.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := more.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one more is not closed: %v", err)
	}
}
