package escrow

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
)

const (
	// authorityLife is longer than a sandbox runs without a stop.
	authorityLife = 397 * 24 * time.Hour
	// leafLife is how long a certificate of a host is valid, leafSpare how long
	// before its end it is made anew.
	leafLife, leafSpare = 7 * 24 * time.Hour, 24 * time.Hour
	// slack is for a guest's clock that is behind.
	slack = 24 * time.Hour
)

// authority makes the certificates of some hosts, and can make no others: its own
// certificate is constrained to them.
type authority struct {
	now  func() time.Time
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// newAuthority makes one with a key that never leaves this process.
func newAuthority(hosts []string, now func() time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of an authority: %w", err)
	}
	begun := now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "SmolVM credentials of one sandbox"},
		NotBefore: begun.Add(-slack), NotAfter: begun.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: hosts,
	}
	cert, err := issue(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	return &authority{now: now, cert: cert, key: key, leaves: map[string]*tls.Certificate{}}, nil
}

// issue signs a certificate for a key.
func issue(template, parent *x509.Certificate, of, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&of.PublicKey)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(public)
	template.SerialNumber, template.SubjectKeyId = serial, id[:20]
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &of.PublicKey, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// pem is the authority's certificate, which only the guest gets.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// leaf is a certificate for a host, made once and again before it ends.
func (a *authority) leaf(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if have := a.leaves[host]; have != nil && now.Add(leafSpare).Before(have.Leaf.NotAfter) {
		return have, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	end := now.Add(leafLife)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	if !now.Before(end) {
		return nil, errors.New("the sandbox runs for too long: its certificate authority has expired")
	}
	cert, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-slack), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", host, err)
	}
	made := &tls.Certificate{Certificate: [][]byte{cert.Raw, a.cert.Raw}, PrivateKey: key, Leaf: cert}
	a.leaves[host] = made
	return made, nil
}
