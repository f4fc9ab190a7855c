// Package redact takes secrets out of text that a person will show to others.
//
// Inputs are the environment, whose secret values are known exactly, and text;
// output is the text with each secret replaced by a word that says what kind it
// was. It errs on the side of taking out too much. Nothing is kept on disk.
package redact

import (
	"regexp"
	"slices"
	"strings"
)

// minSecret is the shortest value of a variable that is taken out wherever it
// appears, in bytes: shorter ones are in ordinary words.
const minSecret = 8

// secretName is what names of variables with secrets have in them.
var secretName = regexp.MustCompile(`(?i)(key|token|secret|passw|auth|credential|cookie|session)`)

// pattern is a form that secrets have.
type pattern struct {
	kind string
	form *regexp.Regexp
	with string // replacement; $1 keeps what led to the secret
}

// patterns are the forms of secrets that agents and their services use.
var patterns = []pattern{
	{"private key", regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), "[private key]"},
	{"minisign key", regexp.MustCompile(`\bRW[QR][A-Za-z0-9+/]{150,}={0,2}`), "[private key]"},
	{"password in an address", regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@]+@`), "${1}[password]@"},
	{"bearer", regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`), "$1 [token]"},
	{"header or field", regexp.MustCompile(`(?i)((?:x-)?(?:api[-_]?key|auth[-_]?token|access[-_]?token|refresh[-_]?token|client[-_]?secret|password|passwd|secret)["']?\s*[:=]\s*["']?)[^\s"',;}]{6,}`), "${1}[secret]"},
	{"known prefix", regexp.MustCompile(`\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30,}|\bhf_[A-Za-z0-9]{20,}|\bnpm_[A-Za-z0-9]{30,}`), "[token]"},
	{"JSON web token", regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)?`), "[token]"},
}

// Redactor takes out the secrets of one environment, and what looks like others.
type Redactor struct{ values []string }

// New makes a Redactor for an environment, NAME=VALUE each.
func New(environ []string) *Redactor {
	r := &Redactor{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if len(value) >= minSecret && secretName.MatchString(name) && !strings.HasPrefix(value, "/") {
			r.values = append(r.values, value)
		}
	}
	// The longest first: a part of it may be another's value.
	slices.SortFunc(r.values, func(a, b string) int { return len(b) - len(a) })
	return r
}

// Text gives the text without secrets, and how many places were changed.
func (r *Redactor) Text(text string) (clean string, taken int) {
	for _, value := range r.values {
		taken += strings.Count(text, value)
		text = strings.ReplaceAll(text, value, "[secret]")
	}
	for _, p := range patterns {
		text = p.form.ReplaceAllStringFunc(text, func(found string) string {
			if strings.Contains(found, "[secret]") || strings.Contains(found, "[token]") || strings.Contains(found, "[password]") {
				return found
			}
			taken++
			return p.form.ReplaceAllString(found, p.with)
		})
	}
	return text, taken
}
