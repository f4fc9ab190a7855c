package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// epoch is the time of the releases here.
const epoch = 1780000000

// pair is a key in files.
type pair struct{ key, pub, private, public string }

func newPair(t *testing.T, generate func(io.Reader) (string, string, error)) pair {
	t.Helper()
	private, public, err := generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := pair{filepath.Join(dir, "k.key"), filepath.Join(dir, "k.pub"), private, public}
	put(t, p.key, private)
	put(t, p.pub, public)
	return p
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := write(path, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// published is a folder whose manifest a key has signed.
func published(t *testing.T, by pair, change func(*manifest.Manifest)) string {
	t.Helper()
	created := time.Unix(epoch, 0).UTC()
	m := manifest.Manifest{
		Schema: manifest.Schema, Release: "r", Serial: 1, Created: created, Expires: created.AddDate(0, 1, 0), MinVersion: "1.0.0", Rows: []manifest.Row{},
	}
	if change != nil {
		change(&m)
	}
	raw, err := manifest.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	signature, id, err := trust.Sign(raw, by.private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "manifest.json"), string(raw))
	put(t, filepath.Join(dir, trust.SignatureFile("manifest.json", id)), string(signature))
	return dir
}

func TestSignRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	put(t, file, "bytes")
	real, development := newPair(t, trust.NewKey), newPair(t, trust.NewDevelopmentKey)
	if err := sign([]string{"1.2.3", development.key, file}, io.Discard); err == nil || !strings.Contains(err.Error(), "development key") {
		t.Errorf("a development key signs: %v", err)
	}
	if _, err := os.Stat(file + ".minisig"); err == nil {
		t.Error("and leaves a signature")
	}
	if err := sign([]string{"1.2.3", real.pub, file}, io.Discard); err == nil {
		t.Error("a public key signs")
	}
	if err := sign([]string{"1.2.3", real.key, file}, io.Discard); err != nil {
		t.Error(err)
	}
	signature, err := os.ReadFile(file + ".minisig")
	policy := trust.Policy{Roots: []trust.Root{{Keys: []string{real.public}, Threshold: 1}}, Now: time.Now()}
	if _, verified := policy.Verify([]byte("bytes"), map[string][]byte{"": signature}); err != nil || verified != nil {
		t.Errorf("the signature is not believed: %v %v", err, verified)
	}
	if !bytes.Contains(signature, []byte("trusted comment: smolvm 1.2.3 f\n")) {
		t.Errorf("the signature says %s", signature)
	}
}

func TestCatalogue(t *testing.T) {
	a, b := newPair(t, trust.NewKey), newPair(t, trust.NewKey)
	development := newPair(t, trust.NewDevelopmentKey)
	good := published(t, a, nil)
	for _, c := range []struct {
		name, threshold, from, want string
		keys                        []string
	}{
		{"signed", "1", good, "", []string{a.pub, b.pub}},
		{"keys only", "2", "", "", []string{a.pub, b.pub}},
		{"one of two", "2", good, "not signed by the keys", []string{a.pub, b.pub}},
		{"another key", "1", good, "not signed by the keys", []string{b.pub}},
		{"development key", "1", "", "development key", []string{a.pub, development.pub}},
		{"private key", "1", "", "public key", []string{a.key}},
		{"threshold", "3", "", "cannot be met", []string{a.pub, b.pub}},
		{"no number", "x", "", "cannot be met", []string{a.pub}},
		{"no folder", "1", filepath.Join(good, "none"), "no such file", []string{a.pub}},
		{"expired", "1", published(t, a, func(m *manifest.Manifest) {
			m.Created, m.Expires = m.Created.AddDate(-1, 0, 0), m.Created.AddDate(0, 0, -1)
		}), "expired", []string{a.pub}},
		{"newer program", "1", published(t, a, func(m *manifest.Manifest) { m.MinVersion = "9.0.0" }), "for smolvm 9.0.0", []string{a.pub}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			to := t.TempDir()
			err := catalogue(append([]string{"1.2.3", "1780000000", c.threshold, c.from, to}, c.keys...), &out)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				return
			}
			carried, globbed := filepath.Glob(filepath.Join(to, "*"))
			if err != nil || globbed != nil || strings.Count(out.String(), ",") != len(c.keys)-1 || c.from != "" && len(carried) != 2 {
				t.Errorf("%v, keys %q, carried %v", err, out.String(), carried)
			}
		})
	}
}

// A key list is carried when it says what the release was given.
func TestCarriedKeyList(t *testing.T) {
	a, b := newPair(t, trust.NewKey), newPair(t, trust.NewKey)
	from := published(t, b, nil)
	bare := strings.Split(strings.TrimSpace(b.public), "\n")
	raw, err := trust.EncodeKeyList(trust.KeyList{
		Schema: trust.KeyListSchema, Version: 2, Threshold: 1, Created: time.Unix(epoch, 0).UTC(), Keys: bare[len(bare)-1:],
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(from, "keys-2.json"), string(raw))
	to := t.TempDir()
	if err := catalogue([]string{"1.2.3", "1780000000", "1", from, to, b.pub}, io.Discard); err != nil {
		t.Error(err)
	}
	if copied, err := os.ReadFile(filepath.Join(to, "keys.json")); err != nil || !bytes.Equal(copied, raw) {
		t.Errorf("the list is not carried: %v", err)
	}
	err = catalogue([]string{"1.2.3", "1780000000", "1", from, t.TempDir(), a.pub, b.pub}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "not those of keys-2.json") {
		t.Errorf("other keys than the list's: %v", err)
	}
}
