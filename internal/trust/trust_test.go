package trust

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

type signer struct{ private, public, id string }

func newSigner(t testing.TB) signer {
	t.Helper()
	private, public, err := NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := KeyID(public)
	if err != nil {
		t.Fatal(err)
	}
	return signer{private, public, id}
}

func (s signer) sign(t testing.TB, raw []byte) []byte {
	t.Helper()
	signature, id, err := Sign(raw, s.private)
	if err != nil {
		t.Fatal(err)
	}
	if id != s.id {
		t.Fatalf("signed as %s, the key is %s", id, s.id)
	}
	return signature
}

func policy(threshold int, signers ...signer) Policy {
	return Policy{Roots: []Root{root(0, threshold, signers...)}}
}

func TestThreshold(t *testing.T) {
	a, b, stranger := newSigner(t), newSigner(t), newSigner(t)
	raw := []byte(`{"schema":1}`)
	tests := map[string]struct {
		policy Policy
		by     []signer
		want   int // signers; -1: refused
	}{
		"one of one":          {policy(1, a), []signer{a}, 1},
		"one of two":          {policy(1, a, b), []signer{b}, 1},
		"two of two":          {policy(2, a, b), []signer{a, b}, 2},
		"threshold not met":   {policy(2, a, b), []signer{a}, -1},
		"unsigned":            {policy(1, a), nil, -1},
		"by a stranger":       {policy(1, a), []signer{stranger}, -1},
		"stranger and one":    {policy(2, a, b), []signer{a, stranger}, -1},
		"stranger beside one": {policy(1, a), []signer{stranger, a}, 1},
		"one key named twice": {policy(2, a, a), []signer{a}, -1},
		"no keys":             {policy(1), []signer{a}, -1},
		"threshold of zero":   {policy(0, a), nil, -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			signatures := map[string][]byte{}
			var ids []string
			for _, s := range test.by {
				signatures[s.id] = s.sign(t, raw)
				ids = append(ids, s.id)
			}
			got, err := test.policy.Verify(raw, signatures)
			if test.want < 0 {
				if err == nil {
					t.Fatalf("accepted, signed by %v", ids)
				}
				return
			}
			if err != nil || len(got) != test.want {
				t.Errorf("Verify = %v, %v", got, err)
			}
		})
	}
}

func TestRefusalsAreTrustFaultsWithHints(t *testing.T) {
	a, b := newSigner(t), newSigner(t)
	for _, p := range []Policy{policy(1), policy(1, a), {Roots: []Root{{Keys: []string{"RWnonsense"}, Threshold: 1}}}} {
		_, err := p.Verify([]byte("x"), map[string][]byte{b.id: b.sign(t, []byte("x"))})
		if fault.CodeOf(err) != fault.Trust || fault.HintOf(err) == "" {
			t.Errorf("%v: code %s, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
		}
	}
}

func TestEverySingleBitCounts(t *testing.T) {
	a := newSigner(t)
	raw := []byte(`{"schema":1,"rows":[]}`)
	p, signature := policy(1, a), a.sign(t, raw)
	for i := range raw {
		changed := append([]byte(nil), raw...)
		changed[i] ^= 1 << (i % 8)
		if _, err := p.Verify(changed, map[string][]byte{a.id: signature}); err == nil {
			t.Errorf("document byte %d changed: accepted", i)
		}
	}
	// The first line is a comment that nothing signs.
	comment := strings.IndexByte(string(signature), '\n') + 1
	for i := comment; i < len(signature); i++ {
		changed := append([]byte(nil), signature...)
		changed[i] ^= 1 << (i % 7)
		if _, err := p.Verify(raw, map[string][]byte{a.id: changed}); err == nil && !same(changed, signature) {
			t.Errorf("signature byte %d (%q) changed: accepted", i, signature[i])
		}
	}
	if _, err := p.Verify(raw, map[string][]byte{a.id: append(signature, make([]byte, MaxSignature)...)}); err == nil {
		t.Error("an overlong signature file was accepted")
	}
}

// same tells two writings of one signature (base64 has spare bits) from two
// signatures.
func same(a, b []byte) bool {
	var one, other minisign.Signature
	return one.UnmarshalText(a) == nil && other.UnmarshalText(b) == nil && one.String() == other.String()
}

// A key file with its comment, the bare line, and stray white space are one key.
func TestKeyForms(t *testing.T) {
	a := newSigner(t)
	lines := strings.Split(strings.TrimSpace(a.public), "\n")
	for _, form := range []string{a.public, lines[len(lines)-1], "\n " + lines[len(lines)-1] + " \n", strings.ReplaceAll(a.public, "\n", "\r\n")} {
		id, err := KeyID(form)
		if err != nil || id != a.id {
			t.Errorf("KeyID(%q) = %s, %v", form, id, err)
		}
	}
	for _, form := range []string{"", "RW", a.private, strings.Repeat("A", 1<<20)} {
		if _, err := KeyID(form); err == nil {
			t.Errorf("KeyID(%.40q) was accepted", form)
		} else if len(err.Error()) > 400 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}

func TestKeyErrorsNeverShowAPrivateKey(t *testing.T) {
	a := newSigner(t)
	_, err := KeyID(a.private)
	lines := strings.Split(strings.TrimSpace(a.private), "\n")
	secret := lines[len(lines)-1]
	if err == nil || strings.Contains(err.Error(), secret[len(secret)/2:]) {
		t.Errorf("err = %v", err)
	}
	if _, _, err := Sign(nil, "junk"+secret); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("Sign: err = %v", err)
	}
}

func TestTimeHasAFloor(t *testing.T) {
	built := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	expires := built.AddDate(0, 1, 0)
	tests := map[string]struct {
		now  time.Time
		want bool
	}{
		"in time":              {built.AddDate(0, 0, 3), false},
		"at the very moment":   {expires, true},
		"a year ahead":         {built.AddDate(1, 0, 0), true},
		"a year behind":        {built.AddDate(-1, 0, 0), false},
		"the clock's epoch":    {time.Unix(0, 0), false},
		"a second before then": {expires.Add(-time.Second), false},
	}
	for name, test := range tests {
		if got := (Policy{Now: test.now, Floor: built}).Expired(expires); got != test.want {
			t.Errorf("%s: Expired = %v", name, got)
		}
	}
	if !(Policy{Now: time.Unix(0, 0), Floor: expires.AddDate(0, 0, 1)}).Expired(expires) {
		t.Error("a clock set back makes an old manifest fresh again")
	}
}

func TestSignatureFile(t *testing.T) {
	a := newSigner(t)
	got := SignatureFile("dir/manifest.json", a.id)
	if d := cmp.Diff("dir/manifest.json."+a.id+".minisig", got); d != "" || len(a.id) != 16 {
		t.Error(d, a.id)
	}
}

func FuzzVerify(f *testing.F) {
	a := newSigner(f)
	raw := []byte("document")
	right := a.sign(f, raw)
	f.Add(raw, right)
	f.Add([]byte("other"), []byte("untrusted comment: x\nAAAA\ntrusted comment: y\nBBBB\n"))
	p := policy(1, a)
	f.Fuzz(func(t *testing.T, doc, signature []byte) {
		if _, err := p.Verify(doc, map[string][]byte{"x": signature}); err == nil && string(doc) != string(raw) {
			t.Error("another document was accepted")
		}
	})
}
