package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"aead.dev/minisign"

	"github.com/smolvm/smolvm/internal/fault"
)

// trustedComment is signed along with the document; it says what the signature
// is for to somebody who looks at the file.
const trustedComment = "smolvm manifest"

// developmentMark is the upper half of a development key's id. minisign draws
// ids at random, so that one key in four thousand million looks like one.
const developmentMark = 0xDE7E10DE

// MaxSignature bounds a signature file in bytes; real ones have about 300.
const MaxSignature = 4 << 10

// KeyID is the id of a public key: 16 upper-case hexadecimal digits.
func KeyID(public string) (string, error) {
	key, err := parsePublic(public)
	if err != nil {
		return "", err
	}
	return formatID(key.ID()), nil
}

// IsDevelopment reports whether a key, named by its id, was made for building
// images in a checkout. Releases never believe such a key.
func IsDevelopment(keyID string) bool {
	return strings.HasPrefix(keyID, fmt.Sprintf("%08X", uint32(developmentMark)))
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

// NewDevelopmentKey makes a key pair whose id tells what it is for.
func NewDevelopmentKey(random io.Reader) (private, public string, err error) {
	if private, public, err = NewKey(random); err != nil {
		return "", "", err
	}
	if private, err = marked(private, 54); err != nil {
		return "", "", fmt.Errorf("make a development key: %w", err)
	}
	if public, err = marked(public, 2); err != nil {
		return "", "", fmt.Errorf("make a development key: %w", err)
	}
	id, err := KeyID(public)
	if err != nil {
		return "", "", fmt.Errorf("make a development key: %w", err)
	}
	return private, "untrusted comment: smolvm development key " + id + "\n" + bare(public) + "\n", nil
}

// marked sets the mark in the id that is at an offset of a key's bytes.
func marked(text string, offset int) (string, error) {
	comment, _, _ := strings.Cut(text, "\n")
	raw, err := base64.StdEncoding.DecodeString(bare(text))
	if err != nil || len(raw) < offset+8 {
		return "", fmt.Errorf("a key of %d bytes is of an unknown form", len(raw))
	}
	binary.LittleEndian.PutUint32(raw[offset+4:], developmentMark)
	return comment + "\n" + base64.StdEncoding.EncodeToString(raw) + "\n", nil
}

// bare is the last line of a key's text: the key without its comment.
func bare(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// Sign returns the content of the signature file of raw for a private key as
// NewKey gives it, and the key's id for SignatureFile.
func Sign(raw []byte, private string) (signature []byte, keyID string, err error) {
	return SignFile(raw, private, trustedComment)
}

// SignFile is Sign for files that people verify with minisign's own tool, which
// shows them the comment that was signed along: what the file is.
func SignFile(raw []byte, private, comment string) (signature []byte, keyID string, err error) {
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
	return reader.SignWithComments(key, comment, "signature by "+keyID), keyID, nil
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

// secretOf is what the key's owner alone can sign with: the key without its id,
// which anybody may choose.
func secretOf(key minisign.PublicKey) string {
	raw, err := base64.StdEncoding.DecodeString(key.String())
	if err != nil || len(raw) < 10 {
		return key.String()
	}
	return string(raw[10:])
}
