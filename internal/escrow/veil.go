package escrow

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
)

// veil takes secrets out of what a host answers: a place where one stands is
// covered by as many asterisks, so that lengths stay what they were.
type veil struct {
	secrets [][]byte // the longest first: one may be part of another
	longest int
}

func newVeil(secrets []Secret) *veil {
	v := &veil{}
	for _, s := range secrets {
		if s.Value != "" {
			v.secrets = append(v.secrets, []byte(s.Value))
			v.longest = max(v.longest, len(s.Value))
		}
	}
	slices.SortStableFunc(v.secrets, func(a, b []byte) int { return len(b) - len(a) })
	return v
}

// cover covers all secrets in p.
func (v *veil) cover(p []byte) {
	for _, secret := range v.secrets {
		for at := 0; ; {
			found := bytes.Index(p[at:], secret)
			if found < 0 {
				break
			}
			at += found
			for range secret {
				p[at] = '*'
				at++
			}
		}
	}
}

// begun is how many of the last bytes of p may be the begin of a secret.
func (v *veil) begun(p []byte) int {
	for n := min(len(p), v.longest-1); n > 0; n-- {
		tail := p[len(p)-n:]
		if slices.ContainsFunc(v.secrets, func(s []byte) bool { return len(s) > n && bytes.HasPrefix(s, tail) }) {
			return n
		}
	}
	return 0
}

// text covers the secrets in a text.
func (v *veil) text(s string) string {
	for _, secret := range v.secrets {
		s = strings.ReplaceAll(s, string(secret), strings.Repeat("*", len(secret)))
	}
	return s
}

// header covers the secrets in headers. A name with one in it, whose case was
// changed on the way, goes.
func (v *veil) header(h http.Header) {
	for name, values := range h {
		lower := strings.ToLower(name)
		if slices.ContainsFunc(v.secrets, func(s []byte) bool { return strings.Contains(lower, strings.ToLower(string(s))) }) {
			delete(h, name)
			continue
		}
		for i := range values {
			values[i] = v.text(values[i])
		}
	}
}

// veiled is a body behind the veil. What was read is handed on at once, but for a
// begin of a secret, which waits for what follows.
type veiled struct {
	veil *veil
	src  io.ReadCloser
	end  func() // called at the end, before it is told
	read []byte
	open []byte // may be handed on
	held []byte
	err  error
}

// veiledChunk is how much of a body is read at once.
const veiledChunk = 16 << 10

func (v *veil) body(src io.ReadCloser, end func()) *veiled {
	return &veiled{veil: v, src: src, end: end}
}

// Read gives what is open, reading more where nothing is.
func (b *veiled) Read(p []byte) (int, error) {
	for len(b.open) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.more()
	}
	n := copy(p, b.open)
	b.open = b.open[n:]
	return n, nil
}

func (b *veiled) more() {
	if b.read == nil {
		b.read = make([]byte, veiledChunk)
	}
	n, err := b.src.Read(b.read)
	have := append(b.held, b.read[:n]...)
	b.veil.cover(have)
	keep := 0
	if err == nil {
		keep = b.veil.begun(have)
	} else if b.err = err; b.end != nil {
		b.end()
	}
	b.open, b.held = have[:len(have)-keep], slices.Clone(have[len(have)-keep:])
}

// Close closes the body.
func (b *veiled) Close() error { return b.src.Close() }

// veiledPipe is a body that is written to as well: of a connection that left HTTP.
type veiledPipe struct {
	*veiled
	io.Writer
}
