package escrow

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// put puts the secrets of a host's rules in place of their placeholders, in the
// headers of a request, and says whether there was one.
func (p *Proxy) put(r *http.Request, t target) (changed bool) {
	for _, s := range p.secrets {
		for _, rule := range s.Rules {
			if rule.Header == "" || (target{rule.Host, rule.Port}) != t {
				continue
			}
			for i, value := range r.Header.Values(rule.Header) {
				if with, ok := s.in(value); ok {
					r.Header.Values(rule.Header)[i], changed = with, true
				}
			}
		}
	}
	return changed
}

// in gives a header's value with the secret in it, also within what Basic hides.
func (s Secret) in(value string) (string, bool) {
	if strings.Contains(value, s.Placeholder) {
		return strings.ReplaceAll(value, s.Placeholder, s.Value), true
	}
	scheme, rest, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "basic") {
		return "", false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	if err != nil || !strings.Contains(string(plain), s.Placeholder) {
		return "", false
	}
	with := strings.ReplaceAll(string(plain), s.Placeholder, s.Value)
	return scheme + " " + base64.StdEncoding.EncodeToString([]byte(with)), true
}
