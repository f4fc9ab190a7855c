// Package sshx is the host's end of SSH: the keys of a sandbox, and a client
// that keeps one connection open and runs programs on it.
//
// Inputs are keys as text and a byte stream to the guest; outputs are key
// pairs, and sessions with three separate streams. The host key is pinned
// exactly: there is no trust on first use. Nothing is kept on disk.
package sshx

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// KeyPair is an Ed25519 key as OpenSSH writes it.
type KeyPair struct {
	PrivatePEM    string // the OpenSSH private key format
	AuthorizedKey string // the public half, one line: type, key, comment; no newline
}

// GenerateKey makes a key from 32 bytes of rand.
func GenerateKey(rand io.Reader, comment string) (KeyPair, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return KeyPair{}, fmt.Errorf("read random bytes for an SSH key: %w", err)
	}
	private := ed25519.NewKeyFromSeed(seed)
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return KeyPair{}, fmt.Errorf("encode an SSH key: %w", err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return KeyPair{}, fmt.Errorf("encode a public SSH key: %w", err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))
	return KeyPair{PrivatePEM: string(pem.EncodeToMemory(block)), AuthorizedKey: line + " " + comment}, nil
}

// KnownHosts is the line of a known_hosts file, without newline, that pins a
// host key given in its authorized_keys form to a host name.
func KnownHosts(host, authorizedKey string) (string, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authorizedKey))
	if err != nil {
		return "", fmt.Errorf("parse the host key of %s: %w", host, err)
	}
	return knownhosts.Line([]string{host}, key), nil
}
