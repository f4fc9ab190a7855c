package trust

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

var made = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// publish makes key list version of keys, signed by those who are named.
func publish(t testing.TB, version, threshold int, keys, by []signer) SignedFile {
	t.Helper()
	list := KeyList{Schema: KeyListSchema, Version: version, Threshold: threshold, Created: made}
	for _, key := range keys {
		list.Keys = append(list.Keys, bare(key.public))
	}
	raw, err := EncodeKeyList(list)
	must(t, err)
	return signed(t, version, raw, by)
}

func signed(t testing.TB, version int, raw []byte, by []signer) SignedFile {
	t.Helper()
	file := SignedFile{Version: version, Raw: raw, Signatures: map[string][]byte{}}
	for _, s := range by {
		file.Signatures[s.id] = s.sign(t, raw)
	}
	return file
}

func root(version, threshold int, signers ...signer) Root {
	r := Root{Version: version, Threshold: threshold}
	for _, s := range signers {
		r.Keys = append(r.Keys, s.public)
	}
	return r
}

func TestNext(t *testing.T) {
	a, b, c, d, stranger := newSigner(t), newSigner(t), newSigner(t), newSigner(t), newSigner(t)
	by := func(s ...signer) []signer { return s }
	tests := map[string]struct {
		from Root
		list SignedFile
		says string // "": followed
	}{
		"first list":                     {root(0, 1, a), publish(t, 1, 1, by(b), by(a, b)), ""},
		"the next":                       {root(3, 1, a), publish(t, 4, 1, by(b), by(a, b)), ""},
		"a key stays":                    {root(3, 1, a), publish(t, 4, 1, by(a, b), by(a)), ""},
		"two of three by two of three":   {root(1, 2, a, b, c), publish(t, 2, 2, by(b, c, d), by(b, c)), ""},
		"joined late by a person's key":  {root(0, 1, a), publish(t, 7, 1, by(a), by(a)), ""},
		"one left out":                   {root(3, 1, a), publish(t, 5, 1, by(a), by(a)), "key list 4 comes after 3"},
		"the same again":                 {root(3, 1, a), publish(t, 3, 1, by(a), by(a)), "key list 4 comes after 3"},
		"an older one":                   {root(3, 1, a), publish(t, 2, 1, by(a), by(a)), "key list 4 comes after 3"},
		"not signed":                     {root(0, 1, a), publish(t, 1, 1, by(b), nil), "of the keys trusted so far are needed, there are 0"},
		"by the new keys only":           {root(0, 1, a), publish(t, 1, 1, by(b), by(b)), "of the keys trusted so far"},
		"by the old keys only":           {root(0, 1, a), publish(t, 1, 1, by(b), by(a)), "of its own keys are needed"},
		"by a stranger and its own":      {root(0, 1, a), publish(t, 1, 1, by(b), by(b, stranger)), "of the keys trusted so far"},
		"old threshold not met":          {root(0, 2, a, b), publish(t, 1, 1, by(c), by(a, c)), "2 signatures of the keys trusted so far are needed, there are 1 (" + a.id},
		"new threshold not met":          {root(0, 1, a), publish(t, 1, 2, by(b, c), by(a, b)), "2 signatures of its own keys are needed, there are 1 (" + b.id},
		"one person for both thresholds": {root(0, 2, a, b), publish(t, 1, 2, by(a, b), by(a)), "2 signatures"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := test.from.Next(test.list.Raw, test.list.Signatures)
			if test.says == "" {
				if err != nil || got.Version != test.list.Version || len(got.Keys) == 0 || got.Threshold < 1 {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			if err == nil || fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), test.says) {
				t.Errorf("err = %v, want one with %q", err, test.says)
			}
		})
	}
}

// A chain over several versions ends with the last keys and forgets the first
// ones; a revoked key brings nobody on.
func TestChain(t *testing.T) {
	keys := []signer{newSigner(t), newSigner(t), newSigner(t), newSigner(t)}
	policy := Policy{Roots: []Root{root(0, 1, keys[0])}}
	for v := 1; v < len(keys); v++ {
		list := publish(t, v, 1, keys[v:v+1], keys[v-1:v+1])
		next, followed, err := policy.Advance(list)
		if !followed || err != nil || next.Version() != v {
			t.Fatalf("list %d: %v, %v", v, followed, err)
		}
		if _, again, _ := next.Advance(list); again {
			t.Errorf("list %d was followed twice", v)
		}
		policy = next
	}
	raw := []byte("manifest")
	for i, key := range keys {
		_, err := policy.Verify(raw, map[string][]byte{key.id: key.sign(t, raw)})
		if last := i == len(keys)-1; (err == nil) != last {
			t.Errorf("signed by key %d: %v", i, err)
		}
	}
	evil := newSigner(t)
	if _, followed, err := policy.Advance(publish(t, 4, 1, []signer{evil}, []signer{keys[0], keys[1], keys[2], evil})); followed || err == nil {
		t.Errorf("revoked keys named a successor: %v", err)
	}
}

// Each root goes its own way; a list is followed if it is for one of them.
func TestAdvanceOfSeveralRoots(t *testing.T) {
	a, b, c := newSigner(t), newSigner(t), newSigner(t)
	policy := Policy{Roots: []Root{root(0, 1, a), root(0, 1, c), root(0, 1, b)}}
	next, followed, err := policy.Advance(publish(t, 1, 1, []signer{b}, []signer{a, b}))
	if !followed || err == nil { // the one that was not followed is told
		t.Fatal(followed, err)
	}
	want := []int{1, 0, 1}
	for i, r := range next.Roots {
		if r.Version != want[i] {
			t.Errorf("root %d is of version %d", i, r.Version)
		}
	}
	if _, _, err := next.Judge([]byte("x"), map[string][]byte{"a": a.sign(t, []byte("x"))}); err == nil {
		t.Error("the key that was replaced still counts")
	}
	if got, _, err := next.Judge([]byte("x"), map[string][]byte{"c": c.sign(t, []byte("x"))}); err != nil || got.Version != 0 {
		t.Errorf("the key given by hand does not count any more: %v", err)
	}
	if policy.Version() != 0 {
		t.Error("the policy itself was changed")
	}
}

func TestFileOfAnotherVersion(t *testing.T) {
	a := newSigner(t)
	list := publish(t, 2, 1, []signer{a}, []signer{a})
	list.Version = 1 // keys-1.json holds list 2
	if _, followed, err := (Policy{Roots: []Root{root(0, 1, a)}}).Advance(list); followed || err == nil {
		t.Errorf("followed; err = %v", err)
	}
}

func TestRoundTripOfKeyLists(t *testing.T) {
	want := KeyList{Schema: 1, Version: 2, Threshold: 1, Created: made, Keys: []string{bare(newSigner(t).public), bare(newSigner(t).public)}}
	raw, err := EncodeKeyList(want)
	must(t, err)
	got, err := ParseKeyList(raw)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestParseKeyListRefuses(t *testing.T) {
	a, b := bare(newSigner(t).public), bare(newSigner(t).public)
	raw, err := EncodeKeyList(KeyList{Schema: 1, Version: 2, Threshold: 1, Created: made, Keys: []string{a, b}})
	must(t, err)
	const head = `"version": 2`
	tests := map[string]struct{ old, new, says string }{
		"unknown field":      {head, head + `, "expires": "x"`, "unknown field"},
		"duplicate key":      {head, head + `, "version": 3`, "twice"},
		"key in other case":  {head, head + `, "Version": 3`, "only a-z"},
		"later schema":       {`"schema": 1`, `"schema": 2, "new": 1`, "schema 2"},
		"null":               {head, `"version": null`, "null"},
		"version zero":       {head, `"version": 0`, "version 0"},
		"version huge":       {head, `"version": 1000001`, "version 1000001"},
		"more than a number": {head, `"version": 99999999999999999999`, "digits"},
		"threshold zero":     {`"threshold": 1`, `"threshold": 0`, "threshold 0"},
		"threshold high":     {`"threshold": 1`, `"threshold": 3`, "threshold 3"},
		"no keys":            {`"` + a + "\",\n    \"" + b + `"`, "", "0 keys"},
		"same key":           {b, a, "twice"},
		"same key, new id":   {b, withID(t, a), "twice"},
		"no key":             {b, "RWnonsense", "public key"},
		"a space in a key":   {b, b + " ", "not written as one line"},
		"a comment":          {b, `untrusted comment: x\n` + b, "not written as one line"},
		"created elsewhere":  {"00:00Z", "00:00+01:00", "UTC"},
		"parts of a second":  {"00:00Z", "00:00.5Z", "whole seconds"},
		"other white space":  {`"schema": 1`, `"schema":  1`, "one form"},
		"an escape":          {`"RW`, `"\u0052W`, "one form"},
		"other order":        {"{\n  \"schema\": 1,", "{", "schema 0"},
		"a second document":  {"\n}\n", "\n}\n{}", "after the end"},
		"byte order mark":    {"{\n  \"schema\"", "\xef\xbb\xbf{\n  \"schema\"", "byte order mark"},
		"too large":          {"\n}\n", "\n}\n" + strings.Repeat(" ", MaxKeyList), "at most"},
		"deep":               {`"threshold": 1`, `"threshold": ` + strings.Repeat("[", 3000), "nested"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(raw), test.old, test.new, 1)
			if changed == string(raw) {
				t.Fatalf("%q is not in the sample", test.old)
			}
			if _, err := ParseKeyList([]byte(changed)); err == nil || !strings.Contains(err.Error(), test.says) || len(err.Error()) > 500 {
				t.Errorf("err = %v, want one with %q", err, test.says)
			}
		})
	}
	if _, err := ParseKeyList(append([]byte(nil), bytes.Replace(raw, []byte("\n}\n"), []byte("\n}"), 1)...)); err == nil {
		t.Error("a list without its last line break was accepted")
	}
}

// withID is the same key under another id: its owner would sign twice.
func withID(t *testing.T, key string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key)
	must(t, err)
	raw[3] ^= 1
	return base64.StdEncoding.EncodeToString(raw)
}

func TestOneOwnerUnderTwoIDsCountsOnce(t *testing.T) {
	a := newSigner(t)
	raw := []byte("manifest")
	right := a.sign(t, raw)
	other := withID(t, bare(a.public))
	renamed := minisign.Signature{}
	must(t, renamed.UnmarshalText(right))
	id, err := KeyID(other)
	must(t, err)
	renamed.KeyID, err = strconv.ParseUint(id, 16, 64) // nothing signs the id
	must(t, err)
	again, err := renamed.MarshalText()
	must(t, err)
	both := map[string][]byte{"x": right, "y": again}
	if _, err := (Policy{Roots: []Root{{Keys: []string{other}, Threshold: 1}}}).Verify(raw, both); err != nil {
		t.Fatalf("the renamed signature is no signature: %v", err)
	}
	if _, err := (Policy{Roots: []Root{{Keys: []string{bare(a.public), other}, Threshold: 2}}}).Verify(raw, both); err == nil {
		t.Error("accepted")
	}
}

// Every bit of a key list and of its signatures counts.
func TestEverySingleBitOfAKeyList(t *testing.T) {
	a, b := newSigner(t), newSigner(t)
	list := publish(t, 1, 1, []signer{b}, []signer{a, b})
	from := root(0, 1, a)
	for i := range list.Raw {
		changed := bytes.Clone(list.Raw)
		changed[i] ^= 1 << (i % 8)
		if _, err := from.Next(changed, list.Signatures); err == nil {
			t.Errorf("byte %d changed: followed", i)
		}
	}
	for _, id := range []string{a.id, b.id} {
		right := list.Signatures[id]
		for i := bytes.IndexByte(right, '\n') + 1; i < len(right); i++ {
			changed := bytes.Clone(right)
			changed[i] ^= 1 << (i % 7)
			signatures := map[string][]byte{a.id: list.Signatures[a.id], b.id: list.Signatures[b.id], id: changed}
			if _, err := from.Next(list.Raw, signatures); err == nil && !same(changed, right) {
				t.Errorf("signature by %s, byte %d changed: followed", id, i)
			}
		}
	}
}

func TestDevelopmentKeys(t *testing.T) {
	private, public, err := NewDevelopmentKey(nil)
	must(t, err)
	id, err := KeyID(public)
	if err != nil || !IsDevelopment(id) || !strings.Contains(public, id) {
		t.Fatalf("key %s, %v", id, err)
	}
	raw := []byte("manifest")
	signature, by, err := Sign(raw, private)
	if err != nil || by != id {
		t.Fatalf("signed by %s, %v", by, err)
	}
	own := Policy{Roots: []Root{{Keys: []string{public}, Threshold: 1}}, Development: true}
	if _, err := own.Verify(raw, map[string][]byte{id: signature}); err != nil {
		t.Errorf("a development build: %v", err)
	}
	own.Development = false
	if _, err := own.Verify(raw, map[string][]byte{id: signature}); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "development key") {
		t.Errorf("a release: %v", err)
	}
	a := newSigner(t)
	if IsDevelopment(a.id) {
		t.Errorf("%s counts as a development key", a.id)
	}
	into := publish(t, 1, 1, []signer{{private, public, id}}, []signer{a, {private, public, id}})
	if _, followed, err := policy(1, a).Advance(into); followed || err == nil {
		t.Errorf("a release follows a list of development keys: %v", err)
	}
}

func FuzzKeyList(f *testing.F) {
	a := newSigner(f)
	right := publish(f, 1, 1, []signer{a}, []signer{a})
	f.Add(right.Raw, right.Signatures[a.id])
	f.Add([]byte(`{"schema":1,"version":1,"threshold":1,"keys":[]}`), []byte("untrusted comment: x\nAAAA\ntrusted comment: y\nBBBB\n"))
	f.Fuzz(func(t *testing.T, raw, signature []byte) {
		list, err := ParseKeyList(raw)
		if err != nil {
			return
		}
		again, err := EncodeKeyList(list)
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("accepted and written differently: %v", err)
		}
		if _, err := root(0, 1, a).Next(raw, map[string][]byte{"x": signature}); err == nil && !bytes.Equal(raw, right.Raw) {
			t.Error("a list that nobody signed was followed")
		}
	})
}
