// Package trust decides whether the bytes of a manifest may be believed: who
// signed them, whether they have expired, and whether a newer one was seen.
//
// Input is raw bytes, minisign signatures and a policy; nothing inside the bytes
// is looked at. The only thing kept on disk is the Memory of a catalogue, whose
// every step is one atomic file operation, so a crash loses at most the step.
package trust

import (
	"bytes"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/smolvm/smolvm/internal/fault"
)

// trustedComment is signed along with the document; it says what the signature
// is for to somebody who looks at the file.
const trustedComment = "smolvm manifest"

// MaxSignature bounds a signature file in bytes; real ones have about 300.
const MaxSignature = 4 << 10

// Policy says which signatures count.
type Policy struct {
	Keys      []string  // minisign public keys, each with or without its comment line
	Threshold int       // how many of them must have signed, at least 1
	Now       time.Time // the host's clock
	Floor     time.Time // build time: the clock is never believed to be earlier
}

// Verify checks the signatures of raw, given by any name (a file name, a key
// id), and returns the ids of the policy's keys that have signed, sorted. It is
// an error when they are fewer than the threshold. Signatures by other keys are
// ignored, several by one key count once.
func (p Policy) Verify(raw []byte, signatures map[string][]byte) (signers []string, err error) {
	keys, err := p.keys()
	if err != nil {
		return nil, err
	}
	for id, key := range keys {
		if signedBy(key, raw, signatures) {
			signers = append(signers, id)
		}
	}
	sort.Strings(signers)
	if len(signers) < p.Threshold {
		return signers, p.tooFew(signers, signatures)
	}
	return signers, nil
}

// KeyIDs are the ids of the policy's keys, sorted, each once.
func (p Policy) KeyIDs() ([]string, error) {
	keys, err := p.keys()
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(keys))
	for id := range keys {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids, nil
}

// Time is the moment that expiry is judged at: the clock, or the floor where
// the clock is behind it.
func (p Policy) Time() time.Time {
	if p.Now.Before(p.Floor) {
		return p.Floor
	}
	return p.Now
}

// Expired reports whether something that expires at t has, by the policy's time.
func (p Policy) Expired(t time.Time) bool { return !p.Time().Before(t) }

func (p Policy) keys() (map[string]minisign.PublicKey, error) {
	if len(p.Keys) == 0 {
		return nil, fault.New(fault.Trust,
			"Name the publisher's key with --trusted-key FILE. `make build` links in the key of what its own checkout publishes.",
			"check the manifest's signature: no key is trusted")
	}
	if p.Threshold < 1 {
		return nil, fmt.Errorf("check the manifest's signature: threshold %d is below 1", p.Threshold)
	}
	keys := make(map[string]minisign.PublicKey, len(p.Keys))
	for _, text := range p.Keys {
		key, err := parsePublic(text)
		if err != nil {
			return nil, err
		}
		keys[formatID(key.ID())] = key
	}
	return keys, nil
}

// tooFew says what was there instead of the needed signatures.
func (p Policy) tooFew(signers []string, signatures map[string][]byte) error {
	const hint = "Use a catalogue signed by a key you trust, or name its key with --trusted-key FILE."
	if len(signatures) == 0 {
		return fault.New(fault.Trust, hint, "check the manifest's signature: it is not signed by any trusted key")
	}
	if len(signers) == 0 {
		return fault.New(fault.Trust, hint, "check the manifest's signature: no signature of a trusted key fits it")
	}
	return fault.New(fault.Trust, hint, "check the manifest's signature: signed by %s, but %d signatures are needed",
		strings.Join(signers, ", "), p.Threshold)
}

func signedBy(key minisign.PublicKey, raw []byte, signatures map[string][]byte) bool {
	for _, signature := range signatures {
		if len(signature) <= MaxSignature && minisign.Verify(key, raw, signature) {
			return true
		}
	}
	return false
}

// KeyID is the id of a public key: 16 upper-case hexadecimal digits.
func KeyID(public string) (string, error) {
	key, err := parsePublic(public)
	if err != nil {
		return "", err
	}
	return formatID(key.ID()), nil
}

// SignatureFile is the name of the file that holds a key's signature, beside
// the signed file.
func SignatureFile(file, keyID string) string { return file + "." + keyID + ".minisig" }

// NewKey makes a key pair from random (crypto/rand.Reader outside tests) in
// minisign's text forms. The private half is not encrypted: keep it 0600.
func NewKey(random io.Reader) (private, public string, err error) {
	pub, priv, err := minisign.GenerateKey(random)
	if err != nil {
		return "", "", fmt.Errorf("make a signing key: %w", err)
	}
	secret, err := priv.MarshalText()
	if err != nil {
		return "", "", fmt.Errorf("make a signing key: %w", err)
	}
	shown, err := pub.MarshalText()
	if err != nil {
		return "", "", fmt.Errorf("make a signing key: %w", err)
	}
	return string(secret) + "\n", string(shown) + "\n", nil
}

// Sign returns the content of the signature file of raw for a private key as
// NewKey gives it, and the key's id for SignatureFile.
func Sign(raw []byte, private string) (signature []byte, keyID string, err error) {
	var key minisign.PrivateKey
	if err := key.UnmarshalText([]byte(strings.TrimSpace(private))); err != nil {
		return nil, "", fmt.Errorf("read the signing key: %w", err)
	}
	keyID = formatID(key.ID())
	// The prehashed scheme, so that minisign's own tool verifies it by default.
	reader := minisign.NewReader(bytes.NewReader(raw))
	if _, err := io.Copy(io.Discard, reader); err != nil {
		return nil, "", fmt.Errorf("sign with %s: %w", keyID, err)
	}
	return reader.SignWithComments(key, trustedComment, "signature by "+keyID), keyID, nil
}

func parsePublic(text string) (minisign.PublicKey, error) {
	var key minisign.PublicKey
	if err := key.UnmarshalText([]byte(strings.TrimSpace(text))); err != nil {
		// The text is not shown: it may be the private half, named by mistake.
		return key, fault.New(fault.Trust, "A key is minisign's public key: one line that starts with RW, or the .pub file that holds it.",
			"read a trusted key of %d bytes: %w", len(text), err)
	}
	return key, nil
}

func formatID(id uint64) string { return fmt.Sprintf("%016X", id) }
