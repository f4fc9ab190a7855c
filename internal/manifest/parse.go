package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Bounds of a document, checked before anything is decoded. The largest release
// planned (5 presets, 2 architectures, 2 VMMs) is about 40 KiB and 6 levels deep.
const (
	MaxSize  = 4 << 20 // bytes
	maxDepth = 16
	// maxDigits keeps every number inside an int64 (19 digits) and refuses
	// fractions and exponents, which no field uses.
	maxDigits = 18
)

// ErrSchema is wrapped by Parse's error for a document whose schema this
// program does not know: a newer program may, so the caller can say "upgrade".
var ErrSchema = errors.New("unknown schema")

// Parse reads a document that nobody has to be trusted to have written well:
// it refuses what two readers could understand differently (duplicate keys,
// keys differing in case, invalid UTF-8, a byte order mark, fractions, null,
// bytes after the end), every field it does not know, and every value that
// Validate refuses. The caller checks the signature first.
func Parse(raw []byte) (Manifest, error) {
	var m Manifest
	if err := DecodeStrict(raw, MaxSize, Schema, &m); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	if err := Validate(m); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

// DecodeStrict reads a signed document of at most limit bytes whose schema is
// the one that is known, and leaves its values to the caller to check. It refuses
// what Parse refuses about the form; the document of another schema is refused
// as a whole, with ErrSchema.
func DecodeStrict(raw []byte, limit, schema int, into any) error {
	if len(raw) > limit {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(raw), limit)
	}
	if err := scan(raw); err != nil {
		return err
	}
	if err := knownSchema(raw, schema); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// Encode writes a document that Parse accepts, always in the same bytes for the
// same value.
func Encode(m Manifest) ([]byte, error) {
	if err := Validate(m); err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	if m.Rows == nil {
		m.Rows = []Row{} // no null, which Parse refuses
	}
	raw, err := EncodeStrict(m, MaxSize)
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return raw, nil
}

// EncodeStrict writes a document as DecodeStrict reads it: indented, fields in
// their declared order, a final line feed.
func EncodeStrict(document any, limit int) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(document); err != nil {
		return nil, err
	}
	if out.Len() > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", out.Len(), limit)
	}
	return out.Bytes(), nil
}

// knownSchema looks at the schema alone, so that a document of a later one is
// refused as a whole and not for the first field that is new in it.
func knownSchema(raw []byte, known int) error {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	if head.Schema != known {
		return fmt.Errorf("%w %d, this program reads %d", ErrSchema, head.Schema, known)
	}
	return nil
}

// scan walks the tokens of one JSON object and refuses what encoding/json
// would accept and quietly resolve.
func scan(raw []byte) error {
	switch {
	case bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")):
		return errors.New("starts with a byte order mark")
	case !utf8.Valid(raw):
		return errors.New("is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	first, err := dec.Token()
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	if first != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	if err := scanObject(dec, 1); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the end of the document")
	}
	return nil
}

// scanObject reads up to and including the closing brace.
func scanObject(dec *json.Decoder, depth int) error {
	seen := map[string]bool{}
	for {
		token, err := dec.Token()
		if err != nil {
			return notJSON(err)
		}
		if token == json.Delim('}') {
			return nil
		}
		key, ok := token.(string)
		switch {
		case !ok || !isKey(key):
			return fmt.Errorf("key %.40q: only a-z, 0-9 and _ are used", key)
		case seen[key]:
			return fmt.Errorf("key %q appears twice", key)
		}
		seen[key] = true
		if err := scanValue(dec, depth); err != nil {
			return err
		}
	}
}

// scanArray reads up to and including the closing bracket.
func scanArray(dec *json.Decoder, depth int) error {
	for dec.More() {
		if err := scanValue(dec, depth); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return notJSON(err)
}

func scanValue(dec *json.Decoder, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return notJSON(err)
	}
	if depth >= maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch v := token.(type) {
	case nil:
		return errors.New("holds a null: leave the field out instead")
	case json.Number:
		return checkNumber(v.String())
	case json.Delim:
		if v == '{' {
			return scanObject(dec, depth+1)
		}
		return scanArray(dec, depth+1)
	}
	return nil
}

func notJSON(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("not JSON: %w", err)
}

func checkNumber(s string) error {
	if len(s) > maxDigits {
		return fmt.Errorf("number %.24s has more than %d digits", s, maxDigits)
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return fmt.Errorf("number %s is not a whole positive one", s)
		}
	}
	return nil
}

// isKey keeps keys to the characters that have no upper-case or Unicode twin
// once upper case is refused: encoding/json matches field names without case.
func isKey(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
