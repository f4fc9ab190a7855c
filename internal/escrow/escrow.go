// Package escrow keeps secrets away from a guest that works with them: the guest
// holds a placeholder, and where it sends that to the host of a rule, in the
// header or field of that rule, the secret takes its place on the way out. For
// that, TLS to exactly those hosts ends here, under a certificate authority that
// is made at each start and known to that guest only.
//
// Inputs are secrets with their rules, the authorities that this computer trusts,
// and connections that the network hands over; outputs are requests to the rules'
// hosts and their answers, without the secrets where an answer repeats them.
// Secrets and the authority's key are in this process's memory only: nothing is
// kept on disk, and a crash ends all connections.
package escrow

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
)

// Bounds of a secret, in bytes. A shorter one is part of ordinary text, where it
// could not be told from an echo.
const (
	MinSecret = 8
	MaxSecret = 8 << 10
)

// Rule says where a secret belongs.
type Rule struct {
	Host   string `json:"host"` // canonical
	Port   uint16 `json:"port"`
	Header string `json:"header,omitempty"` // its name; empty: Field counts
	Field  string `json:"field,omitempty"`  // of the body's form or JSON object
}

// Place is the host, with its port where that is not HTTPS' own.
func (r Rule) Place() string {
	if r.Port == 443 {
		return r.Host
	}
	return fmt.Sprintf("%s:%d", r.Host, r.Port)
}

// Secret is one secret and the placeholder that stands for it. Printing one shows
// its name only.
type Secret struct {
	Name        string `json:"name"`
	Value       string `json:"value"`
	Prefix      string `json:"prefix,omitempty"`      // of the placeholder
	Placeholder string `json:"placeholder,omitempty"` // see its function
	Rules       []Rule `json:"rules"`
}

// String is the name.
func (s Secret) String() string { return s.Name }

// GoString is the name as well.
func (s Secret) GoString() string { return fmt.Sprintf("escrow.Secret(%q)", s.Name) }

// LogValue is what a log may show of it.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.Name) }

// Check refuses what cannot be a secret of a header.
func Check(value string) error {
	switch {
	case len(value) < MinSecret || len(value) > MaxSecret:
		return fmt.Errorf("it has %d bytes; %d to %d are possible", len(value), MinSecret, MaxSecret)
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return fmt.Errorf("it has characters other than printable ASCII without spaces")
	}
	return nil
}

// Placeholder is what the guest holds in place of a secret: the prefix by which
// its programs know such a secret, and what belongs to one sandbox and name. It
// stays the same over restarts, as programs may have noted it. It opens nothing.
func Placeholder(prefix, sandbox, name string) string {
	sum := sha256.Sum256([]byte("smolvm placeholder\x00" + sandbox + "\x00" + name))
	return prefix + "smolvm-placeholder-" + hex.EncodeToString(sum[:20])
}
