//go:build vm

package vm_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// secretKept is a key that may be in the API's requests and in no byte of a guest.
const secretKept = "smolvm-marker-kept-c4e1b7"

// guestHost is what sandboxes call this computer.
const guestHost = "host.smolvm.internal"

// askingAgent asks the API as agents do: by Node, Python and curl.
const askingAgent = `#!/bin/sh
shift # --dangerously-skip-permissions
url=$ANTHROPIC_BASE_URL
case $1 in
show) echo "$ANTHROPIC_API_KEY" ;;
node) exec node -e 'fetch(process.env.ANTHROPIC_BASE_URL+"/node",{headers:{"x-api-key":process.env.ANTHROPIC_API_KEY}}).then(r=>r.text()).then(t=>console.log(t))' ;;
python) exec python3 -c 'import os,urllib.request as u; print(u.urlopen(u.Request(os.environ["ANTHROPIC_BASE_URL"]+"/python",headers={"x-api-key":os.environ["ANTHROPIC_API_KEY"]})).read().decode())' ;;
curl) exec curl -sS -m 30 -H "x-api-key: $ANTHROPIC_API_KEY" "$url/curl" ;;
issuer) exec curl -sSv -m 30 "$url/issuer" ;;
away) exec curl -sS -m 30 -w '%{http_code}' -H "x-api-key: $ANTHROPIC_API_KEY" "$url/away" ;;
elsewhere) exec curl -sS -m 30 -H "x-other: $ANTHROPIC_API_KEY" "$url/elsewhere" ;;
hold) echo holding; read line ;;
esac
`

// fakeAPI is an API over real TLS on this computer's loopback. It repeats the key
// that it was sent, against all good manners.
type fakeAPI struct {
	*httptest.Server
	authority string // file

	mu   sync.Mutex
	seen map[string]http.Header // by path
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	a := &fakeAPI{seen: map[string]http.Header{}, authority: filepath.Join(t.TempDir(), "authority.pem")}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.seen[r.URL.Path] = r.Header.Clone()
		a.mu.Unlock()
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "https://www.example.com/", http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("X-Echo", r.Header.Get("X-Api-Key"))
		fmt.Fprintf(w, "pong %s %s", r.URL.Path, r.Header.Get("X-Api-Key"))
	}))
	a.TLS = &tls.Config{Certificates: []tls.Certificate{certificateFor(t, guestHost, a.authority)}}
	a.EnableHTTP2 = true
	a.StartTLS()
	t.Cleanup(a.Close)
	return a
}

// certificateFor makes a certificate, and writes its authority's to a file.
func certificateFor(t *testing.T, host, file string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Fake API's authority"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}
}

func (a *fakeAPI) header(path, name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[path].Get(name)
}

func (a *fakeAPI) port() string {
	_, port, _ := net.SplitHostPort(a.Listener.Addr().String())
	return port
}

// TestKeptCredential: the agent's requests carry the key, and no byte of the guest's
// memory or disks does.
func TestKeptCredential(t *testing.T) {
	api := newFakeAPI(t)
	w := theWorld.as(t, t.TempDir(), "REAL_KEY="+secretKept, "NODE_EXTRA_CA_CERTS="+api.authority)
	const name = "kept"
	started := w.run(t, nil, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1", "--allow-host", api.port(),
		"-e", "ANTHROPIC_BASE_URL=https://"+guestHost+":"+api.port(), "--credential", "ANTHROPIC_API_KEY=env:REAL_KEY")
	t.Cleanup(func() { w.remove(name) })
	if started.status != 0 || !strings.Contains(started.stderr, "placeholders: ANTHROPIC_API_KEY for "+guestHost+":"+api.port()+".") {
		t.Fatalf("start: %d, %s", started.status, started.stderr)
	}
	w.plantAgent(t, name, askingAgent)
	held := strings.TrimSpace(w.must(t, "attach", name, "--", "show"))
	if !strings.HasPrefix(held, placeholder) {
		t.Fatalf("the agent has %q", held)
	}
	w.asks(t, name, api)
	w.memoryScan(t, name, held)
	if got := w.must(t, "info", name, "--json") + w.must(t, "info", name) + w.must(t, "network", name, "--json"); strings.Contains(got, secretKept) {
		t.Errorf("the secret is shown: %s", got)
	}

	// It is read again at every start, and the placeholder stays the same.
	w.must(t, "stop", name)
	hostScan(t, w.home)
	poor := theWorld.as(t, t.TempDir(), "NODE_EXTRA_CA_CERTS="+api.authority)
	if r := poor.run(t, nil, "start", "--no-attach", name); r.status != 125 || !strings.Contains(r.stderr, "read at every start") {
		t.Errorf("without the variable: %d, %s", r.status, r.stderr)
	}
	w.must(t, "start", "--no-attach", name, "-e", "ANTHROPIC_BASE_URL=https://"+guestHost+":"+api.port())
	if again := strings.TrimSpace(w.must(t, "attach", name, "--", "show")); again != held {
		t.Errorf("the placeholder was %q and is %q", held, again)
	}
	w.asks(t, name, api)
	if n := strings.Count(w.must(t, "exec", name, "--", "cat", "/etc/ssl/certs/ca-certificates.crt"), "Added by SmolVM"); n != 1 {
		t.Errorf("the bundle has the certificates of %d starts", n)
	}
}

// asks has programs of the guest ask the API.
func (w *world) asks(t *testing.T, name string, api *fakeAPI) {
	t.Helper()
	stars := strings.Repeat("*", len(secretKept))
	for _, by := range []string{"curl", "node", "python"} {
		got := strings.TrimSpace(w.must(t, "attach", name, "--", by))
		if got != "pong /"+by+" "+stars || api.header("/"+by, "X-Api-Key") != secretKept {
			t.Errorf("%s got %q, the API %q", by, got, api.header("/"+by, "X-Api-Key"))
		}
	}
	if r := w.run(t, nil, "attach", name, "--", "issuer"); !strings.Contains(r.stderr, "SmolVM credentials of one sandbox") {
		t.Errorf("the guest sees another certificate: %s", r.stderr)
	}
	if got := w.must(t, "attach", name, "--", "away"); !strings.HasSuffix(got, "502") || !strings.Contains(got, "https://www.example.com") {
		t.Errorf("a redirect elsewhere gave %q", got)
	}
	w.must(t, "attach", name, "--", "elsewhere")
	if got := api.header("/elsewhere", "X-Other"); !strings.HasPrefix(got, placeholder) {
		t.Errorf("a header that no rule names has %q", got)
	}
}

// memoryScan looks through all memory of the sandbox's machine. It holds the
// placeholder, or the scan is worth nothing.
func (w *world) memoryScan(t *testing.T, name, held string) {
	t.Helper()
	hold := w.command(t.Context(), "attach", name, "--", "hold")
	in, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer hold.Wait()
	defer in.Close()
	var r struct {
		VMMPid int `json:"vmm_pid"`
	}
	raw, err := os.ReadFile(filepath.Join(w.home, "sandboxes", name, "record.json"))
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil || r.VMMPid == 0 {
		t.Fatalf("whose memory? %v, %s", err, raw)
	}
	found := memoryHolds(t, r.VMMPid, secretKept, held)
	if found[secretKept] {
		t.Error("the guest's memory holds the secret")
	}
	if !found[held] {
		t.Error("the scan does not even find the placeholder")
	}
}

// memoryHolds tells which texts are in the memory of a process.
func memoryHolds(t *testing.T, pid int, texts ...string) map[string]bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	const piece, overlap = 8 << 20, 256
	buf, found, read := make([]byte, piece+overlap), map[string]bool{}, int64(0)
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		for at := from; at < to; at += piece {
			n, _ := memory.ReadAt(buf[:min(piece+overlap, to-at)], at)
			read += int64(n)
			for _, text := range texts {
				found[text] = found[text] || bytes.Contains(buf[:n], []byte(text))
			}
		}
	}
	if read < 1<<30 {
		t.Errorf("only %d bytes of the machine's memory could be read", read)
	}
	return found
}

// TestKeptCredentialOfAnAgent has the real agent of the shipped image talk to an API
// that speaks Anthropic's protocol.
func TestKeptCredentialOfAnAgent(t *testing.T) {
	needLong(t)
	api := newFakeAPI(t)
	var mu sync.Mutex
	var keys []string
	api.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		keys = append(keys, r.URL.Path+" "+r.Header.Get("X-Api-Key"))
		mu.Unlock()
		if r.URL.Path != "/v1/messages" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range messageEvents("pong from the fake API") {
			fmt.Fprint(w, event)
			w.(http.Flusher).Flush()
		}
	})
	w := theWorld.as(t, t.TempDir(), "REAL_KEY="+secretKept, "NODE_EXTRA_CA_CERTS="+api.authority)
	w.bound = longBuild
	const name = "kept-agent"
	t.Cleanup(func() { w.remove(name) })
	ctx, cancel := context.WithTimeout(t.Context(), longBuild)
	defer cancel()
	r := w.command(ctx, "claude", "start", "-n", name, "--no-mount", "--allow-host", api.port(),
		"-e", "ANTHROPIC_BASE_URL=https://"+guestHost+":"+api.port(), "--credential", "ANTHROPIC_API_KEY=env:REAL_KEY", "--", "-p", "ping")
	var errs bytes.Buffer
	r.Stderr = &errs
	out, err := r.Output()
	mu.Lock()
	defer mu.Unlock()
	if err != nil || !strings.Contains(string(out), "pong from the fake API") {
		t.Errorf("the agent said %q, %v, %s; the API got %q", out, err, &errs, keys)
	}
	for _, key := range keys {
		if strings.HasPrefix(key, "/v1/messages ") && key != "/v1/messages "+secretKept {
			t.Errorf("the API got %q", key)
		}
	}
}

// messageEvents are a streamed answer of Anthropic's Messages API.
func messageEvents(text string) []string {
	event := func(kind, data string) string { return "event: " + kind + "\ndata: " + data + "\n\n" }
	return []string{
		event("message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}`),
		event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`),
		event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"`+text+`"}}`),
		event("content_block_stop", `{"type":"content_block_stop","index":0}`),
		event("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5}}`),
		event("message_stop", `{"type":"message_stop"}`),
	}
}
