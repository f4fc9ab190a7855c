package config

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
)

const (
	maxHostCA = 1 << 20 // bytes of certificates that a seed carries
	maxBundle = 8 << 20 // bytes of one file of certificates; Mozilla's has 220 kB
)

// bundleNames are the variables by which programs are told where a bundle of
// certificate authorities is.
var bundleNames = []string{
	"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NIX_SSL_CERT_FILE",
}

// stores are the places where certificate authorities are on a host.
type stores struct {
	bundles []string // the distribution's bundle; the first that exists counts
	local   []string // patterns: what this computer's administrator added
	common  []string // patterns: what every distribution ships, the guest's included
}

var hostStores = stores{
	bundles: []string{
		"/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine
		"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
		"/etc/ssl/ca-bundle.pem",             // openSUSE
	},
	local: []string{
		"/usr/local/share/ca-certificates/*.crt",
		"/etc/pki/ca-trust/source/anchors/*",
	},
	common: []string{"/usr/share/ca-certificates/mozilla/*.crt"},
}

// HostCA gives the certificate authorities that this host trusts beyond those
// that every distribution ships, in PEM, one certificate each: behind a proxy
// that intercepts TLS the guest needs them. Where the distribution's own cannot
// be told apart, it gives the whole bundle. Files that are named and missing
// are passed over, as all programs do; only certificates are taken from a file,
// never a key that lies beside them.
func (c Config) HostCA() ([]string, error) { return hostCA(c.Getenv, hostStores) }

func hostCA(getenv func(string) string, s stores) ([]string, error) {
	var own collector
	own.seen = map[[sha256.Size]byte]bool{}
	for _, path := range expand(s.common) {
		own.skip(path)
	}
	for _, name := range bundleNames {
		if err := own.named(name, getenv(name)); err != nil {
			return nil, err
		}
	}
	for _, path := range append(firstExisting(s.bundles), expand(s.local)...) {
		_ = own.add(path) // nobody named it; what cannot be read the host's own programs do not trust either
	}
	if own.size > maxHostCA {
		return nil, fault.New(fault.Host, "Point SSL_CERT_FILE and NODE_EXTRA_CA_CERTS at a smaller bundle.",
			"the host's extra certificate authorities take %d bytes, a sandbox takes at most %d", own.size, maxHostCA)
	}
	return own.certs, nil
}

// collector gathers certificates, each once.
type collector struct {
	seen  map[[sha256.Size]byte]bool
	certs []string // PEM
	size  int      // bytes of certs
}

// skip makes sure that the certificates of a file are not gathered.
func (c *collector) skip(path string) {
	ders, _ := certificates(path) // one that cannot be read is gathered elsewhere, which does no harm
	for _, der := range ders {
		c.seen[sha256.Sum256(der)] = true
	}
}

// named gathers the certificates of a file that a variable names. A relative
// path is passed over: it meant a folder that this process may not be in.
func (c *collector) named(variable, path string) error {
	if !filepath.IsAbs(path) {
		return nil
	}
	err := c.add(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fault.New(fault.Host, "Correct or unset the variable.", "read the certificate authorities that %s names: %w", variable, err)
}

// add gathers the certificates of a file.
func (c *collector) add(path string) error {
	ders, err := certificates(path)
	for _, der := range ders {
		sum := sha256.Sum256(der)
		if c.seen[sum] || !isCertificate(der) {
			continue
		}
		c.seen[sum] = true
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		c.certs = append(c.certs, text)
		c.size += len(text)
	}
	return err
}

// firstExisting is the distribution's bundle, or nothing.
func firstExisting(paths []string) []string {
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return []string{path}
		}
	}
	return nil
}

func expand(patterns []string) []string {
	var paths []string
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern) // fails only for a malformed pattern; ours are constants
		paths = append(paths, found...)
	}
	return paths
}

// certificates gives the certificates of a PEM file in DER.
func certificates(path string) ([][]byte, error) {
	data, err := readBounded(path)
	var ders [][]byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			ders = append(ders, block.Bytes)
		}
	}
	return ders, err
}

func isCertificate(der []byte) bool {
	_, err := x509.ParseCertificate(der)
	return err == nil
}

// readBounded reads a regular file; a FIFO does not hang it.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBundle {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxBundle)
	}
	return io.ReadAll(io.LimitReader(f, maxBundle))
}
