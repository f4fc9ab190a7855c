package escrow

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// maxFields bounds a body in which a field is looked for. A longer one goes on as
// it is: secrets are in the requests that log in, which are short.
const maxFields = 1 << 20

// putFields puts secrets into the fields of a body, and says whether there was one.
func (p *Proxy) putFields(r *http.Request, t target) (changed bool, err error) {
	rewrite := fieldsOf(r.Header.Get("Content-Type"))
	if rewrite == nil || !p.hasFields(t) || r.Body == nil || r.Header.Get("Content-Encoding") != "" || r.ContentLength > maxFields {
		return false, nil
	}
	body := r.Body
	raw, err := io.ReadAll(io.LimitReader(body, maxFields+1))
	if err != nil {
		return false, err
	}
	if len(raw) > maxFields {
		r.Body = joined{io.MultiReader(bytes.NewReader(raw), body), body}
		return false, nil
	}
	for _, s := range p.secrets {
		for _, rule := range s.Rules {
			if rule.Field != "" && (target{rule.Host, rule.Port}) == t {
				with, ok := rewrite(raw, rule.Field, s)
				raw, changed = with, changed || ok
			}
		}
	}
	r.Body, r.ContentLength = joined{bytes.NewReader(raw), body}, int64(len(raw))
	r.TransferEncoding = nil
	return changed, nil
}

func (p *Proxy) hasFields(t target) bool {
	for _, s := range p.secrets {
		for _, rule := range s.Rules {
			if rule.Field != "" && (target{rule.Host, rule.Port}) == t {
				return true
			}
		}
	}
	return false
}

// joined is a body that was read in part.
type joined struct {
	io.Reader
	io.Closer
}

// fieldsOf gives what replaces in a field of such content; nil for other content.
func fieldsOf(contentType string) func(raw []byte, field string, s Secret) ([]byte, bool) {
	kind, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return nil
	case kind == "application/x-www-form-urlencoded":
		return putForm
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		return putJSON
	}
	return nil
}

// putForm replaces in a field of a form; the others stay as they were written.
func putForm(raw []byte, field string, s Secret) ([]byte, bool) {
	pairs := strings.Split(string(raw), "&")
	changed := false
	for i, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(key)
		text, err2 := url.QueryUnescape(value)
		if err == nil && err2 == nil && name == field && strings.Contains(text, s.Placeholder) {
			pairs[i] = key + "=" + url.QueryEscape(strings.ReplaceAll(text, s.Placeholder, s.Value))
			changed = true
		}
	}
	return []byte(strings.Join(pairs, "&")), changed
}

// putJSON replaces in a field of a JSON object, not in those of objects within it.
// What is around it stays as it was written.
func putJSON(raw []byte, field string, s Secret) ([]byte, bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return raw, false
	}
	var out []byte
	done := int64(0) // bytes of raw that are in out
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return raw, false
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return raw, false
		}
		var text string
		if key != field || json.Unmarshal(value, &text) != nil || !strings.Contains(text, s.Placeholder) {
			continue
		}
		with, err := json.Marshal(strings.ReplaceAll(text, s.Placeholder, s.Value))
		if err != nil {
			return raw, false
		}
		end := d.InputOffset()
		out = append(append(out, raw[done:end-int64(len(value))]...), with...)
		done = end
	}
	if _, err := d.Token(); err != nil || done == 0 {
		return raw, false
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return raw, false // something follows the object
	}
	return append(out, raw[done:]...), true
}
