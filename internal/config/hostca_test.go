package config

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

// authority makes a certificate and its key, both in PEM.
func authority(t *testing.T, name string) (cert, key string) {
	t.Helper()
	return largeAuthority(t, name, 1)
}

// largeAuthority makes one with an extension of size bytes.
func largeAuthority(t *testing.T, name string, size int) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: make([]byte, size)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", pkcs8)
}

// trust is a host's certificate files in a folder.
type trust struct {
	t   *testing.T
	dir string
	env map[string]string
}

func newTrust(t *testing.T) trust { return trust{t: t, dir: t.TempDir(), env: map[string]string{}} }

func (h trust) put(file string, parts ...string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Join(parts, "")), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h trust) hostCA() ([]string, error) {
	return hostCA(func(name string) string { return h.env[name] }, stores{
		bundles: []string{filepath.Join(h.dir, "missing.crt"), filepath.Join(h.dir, "bundle.crt"), filepath.Join(h.dir, "second.crt")},
		local:   []string{filepath.Join(h.dir, "local", "*.crt")},
		common:  []string{filepath.Join(h.dir, "mozilla", "*.crt")},
	})
}

func (h trust) want(certs ...string) {
	h.t.Helper()
	got, err := h.hostCA()
	if err != nil {
		h.t.Fatal(err)
	}
	if d := cmp.Diff(certs, got); d != "" {
		h.t.Error(d)
	}
}

func TestHostCAOnlyWhatIsExtra(t *testing.T) {
	h := newTrust(t)
	mozilla, _ := authority(t, "mozilla")
	proxy, key := authority(t, "proxy")
	local, _ := authority(t, "local")
	named, _ := authority(t, "named")
	unused, _ := authority(t, "unused")
	h.put("mozilla/one.crt", mozilla)
	h.put("bundle.crt", "# comment\n", mozilla, proxy, mozilla, key, proxy)
	h.put("second.crt", unused)
	h.put("local/l.crt", local, proxy)
	h.put("local/ignored.txt", unused)
	if err := os.Mkdir(filepath.Join(h.dir, "local", "folder.crt"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.env["NODE_EXTRA_CA_CERTS"] = h.put("named.pem", named)
	h.env["SSL_CERT_FILE"] = filepath.Join(h.dir, "bundle.crt")
	h.want(proxy, named, local)
}

func TestHostCAWholeBundleWithoutMozilla(t *testing.T) {
	h := newTrust(t)
	mozilla, _ := authority(t, "mozilla")
	proxy, _ := authority(t, "proxy")
	h.put("bundle.crt", mozilla, proxy)
	h.want(mozilla, proxy)
}

func TestHostCANone(t *testing.T) {
	h := newTrust(t)
	h.env["SSL_CERT_FILE"] = filepath.Join(h.dir, "missing.pem")
	h.env["CURL_CA_BUNDLE"] = "relative.pem"
	h.want()
}

func TestHostCAPassesOverNonsense(t *testing.T) {
	h := newTrust(t)
	proxy, key := authority(t, "proxy")
	junk := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")}))
	h.put("bundle.crt", key, junk, "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", proxy)
	h.want(proxy)
}

func TestHostCARefuses(t *testing.T) {
	h := newTrust(t)
	fifo := filepath.Join(h.dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{h.dir, fifo, h.put("large", string(bytes.Repeat([]byte("x"), maxBundle+1)))} {
		h.env["SSL_CERT_FILE"] = path
		_, err := h.hostCA()
		if fault.CodeOf(err) != fault.Host || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestHostCABounded(t *testing.T) {
	h := newTrust(t)
	var certs []string
	for range 3 {
		cert, _ := largeAuthority(t, "large", maxHostCA*3/4/3) // PEM adds a third
		certs = append(certs, cert)
	}
	h.put("bundle.crt", certs[:2]...)
	if got, err := h.hostCA(); err != nil || len(got) != 2 {
		t.Errorf("two of three parts: %d certificates, %v", len(got), err)
	}
	h.put("bundle.crt", certs...)
	if _, err := h.hostCA(); fault.CodeOf(err) != fault.Host {
		t.Errorf("%d certificates: got %v", len(certs), err)
	}
}
