package fetch

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/test/faulty"
)

// proxyChild tells a copy of this test program what to fetch.
const proxyChild = "SMOLVM_TEST_FETCH"

// TestFetchAsChild is the copy: the proxy and the CA come from the environment,
// which Go reads once in a process.
func TestFetchAsChild(t *testing.T) {
	address := os.Getenv(proxyChild)
	if address == "" {
		t.Skip("only as the child of TestCorporateProxy")
	}
	m := New(Options{Wait: noWait}).Mirrors([]string{address}, nil)
	data, err := download(t.Context(), m, "data", Span{1000, 90_000}, make([]byte, 4096))
	if err != nil {
		fmt.Printf("failed: %v\n", err)
		return
	}
	fmt.Printf("got %x\n", data[:16])
}

// TestCorporateProxy: the way out is a proxy that opens TLS with its own CA.
func TestCorporateProxy(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SSL_CERT_FILE is Linux's; elsewhere the CA is in the system's own store")
	}
	data := noise(100_000)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data"), data)
	server := faulty.New(dir)
	server.Set("data", faulty.Fault{Stop: faulty.Cut, After: 30_000, Times: 1})
	authority, certificate := makeCertificates(t, "images.example")
	proxy, asked := intercept(t, server, certificate)

	got := fetchAsChild(t, "https://images.example/manifest.json", "HTTPS_PROXY="+proxy, "SSL_CERT_FILE="+authority)
	if want := fmt.Sprintf("got %x", data[1000:1016]); !strings.Contains(got, want) {
		t.Errorf("through the proxy: %s", got)
	}
	if hosts := asked(); hosts != "images.example:443 images.example:443" { // again after the cut
		t.Errorf("the proxy was asked for %q", hosts)
	}
	got = fetchAsChild(t, "https://images.example/manifest.json", "https_proxy="+proxy)
	if !strings.Contains(got, "failed:") || !strings.Contains(got, "certificate signed by unknown authority") {
		t.Errorf("without the CA: %s", got)
	}
	got = fetchAsChild(t, "https://images.example/manifest.json", "HTTPS_PROXY=http://"+freeAddress(t))
	if !strings.Contains(got, "failed:") || !strings.Contains(got, "proxyconnect") {
		t.Errorf("dead proxy: %s", got)
	}
}

func fetchAsChild(t *testing.T, address string, environment ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFetchAsChild$", "-test.v")
	c.Env = append([]string{"HOME=" + t.TempDir(), proxyChild + "=" + address}, environment...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// intercept is a proxy that answers CONNECT itself, with a certificate of its own.
func intercept(t *testing.T, inside http.Handler, certificate tls.Certificate) (address string, asked func() string) {
	t.Helper()
	backend := httptest.NewUnstartedServer(inside)
	backend.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	backend.StartTLS()
	t.Cleanup(backend.Close)
	hosts := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		hosts <- r.Host
		tunnel(w, backend.Listener.Addr().String())
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL, func() string {
		var list []string
		for len(hosts) > 0 {
			list = append(list, <-hosts)
		}
		return strings.Join(list, " ")
	}
}

func tunnel(w http.ResponseWriter, to string) {
	out, err := net.Dial("tcp", to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	fmt.Fprint(in, "HTTP/1.1 200 Connection established\r\n\r\n")
	ended := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(out, in); out.Close(); ended <- struct{}{} }()
	go func() { _, _ = io.Copy(in, out); in.Close(); ended <- struct{}{} }()
	<-ended
	<-ended
}

// makeCertificates makes a CA, as a PEM file, and a certificate of it for a host.
func makeCertificates(t *testing.T, host string) (authority string, certificate tls.Certificate) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(template, parent *x509.Certificate, of *ecdsa.PrivateKey, by *ecdsa.PrivateKey) []byte {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		raw, err := x509.CreateCertificate(rand.Reader, template, parent, &of.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	root, rootKey, leafKey := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corporate CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key(), key()
	rootRaw := sign(root, root, rootKey, rootKey)
	leafRaw := sign(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{host}}, root, leafKey, rootKey)
	authority = filepath.Join(t.TempDir(), "ca.pem")
	var text bytes.Buffer
	if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: rootRaw}); err != nil {
		t.Fatal(err)
	}
	write(t, authority, text.Bytes())
	return authority, tls.Certificate{Certificate: [][]byte{leafRaw}, PrivateKey: leafKey}
}
