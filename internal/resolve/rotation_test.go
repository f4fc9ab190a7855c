package resolve

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/faulty"
)

// pair is a publisher's key.
type pair struct{ private, public, id string }

func newPair(t *testing.T) pair {
	t.Helper()
	private, public, err := trust.NewKey(rand.Reader)
	must(t, err)
	id, err := trust.KeyID(public)
	must(t, err)
	return pair{private, public, id}
}

func (w *world) own(t *testing.T) pair {
	t.Helper()
	id, err := trust.KeyID(w.made.PublicKey)
	must(t, err)
	return pair{w.made.PrivateKey, w.made.PublicKey, id}
}

// rotate publishes key list version with keys, signed by those named.
func (w *world) rotate(t *testing.T, version, threshold int, keys, by []pair) {
	t.Helper()
	list := trust.KeyList{Schema: trust.KeyListSchema, Version: version, Threshold: threshold, Created: now}
	for _, key := range keys {
		lines := strings.Split(strings.TrimSpace(key.public), "\n")
		list.Keys = append(list.Keys, lines[len(lines)-1])
	}
	raw, err := trust.EncodeKeyList(list)
	must(t, err)
	w.write(t, trust.KeyListFile(version), raw, by)
}

func (w *world) write(t *testing.T, name string, raw []byte, by []pair) {
	t.Helper()
	path := filepath.Join(w.made.Dir, name)
	must(t, os.WriteFile(path, raw, 0o644))
	for _, key := range by {
		signature, _, err := trust.Sign(raw, key.private)
		must(t, err)
		must(t, os.WriteFile(trust.SignatureFile(path, key.id), signature, 0o644))
	}
}

// sign lets the manifest be signed by one key from now on.
func (w *world) sign(t *testing.T, key pair) {
	t.Helper()
	for _, path := range w.files(t, "manifest.json.*") {
		must(t, os.Remove(path))
	}
	w.made.PrivateKey, w.made.PublicKey = key.private, key.public
	must(t, w.made.Publish())
}

func (w *world) files(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.made.Dir, pattern))
	must(t, err)
	return paths
}

// fresh is the same user on a computer that remembers nothing.
func (w *world) fresh(t *testing.T) {
	t.Helper()
	w.rules.Memory = trust.NewMemory(t.TempDir(), func() time.Time { return now })
}

func (w *world) told() string {
	w.events.mu.Lock()
	defer w.events.mu.Unlock()
	text := w.events.text.String()
	w.events.text.Reset()
	return text
}

// chain publishes lists 1 to n, each with one key, signed by the one before it.
func (w *world) chain(t *testing.T, n int) []pair {
	t.Helper()
	keys := []pair{w.own(t)}
	for v := 1; v <= n; v++ {
		keys = append(keys, newPair(t))
		w.rotate(t, v, 1, keys[v:], keys[v-1:])
	}
	w.sign(t, keys[n])
	return keys
}

func TestRotationOverSeveralVersions(t *testing.T) {
	w := newWorld(t)
	keys := w.chain(t, 5)
	c, err := w.load(t.Context())
	must(t, err)
	if c.Root.Version != 5 || len(c.Document.Keys) != 5 || fmt.Sprint(c.Signers) != "["+keys[5].id+"]" {
		t.Errorf("root %+v, %d key lists, signers %v", c.Root, len(c.Document.Keys), c.Signers)
	}
	if told := w.told(); told != "" {
		t.Errorf("warned: %s", told)
	}
	// The lists are remembered: the next run asks for the sixth only.
	if _, err := w.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.server.Requests("keys-1.json"); n != 1 {
		t.Errorf("keys-1.json was asked for %d times", n)
	}
	if n := w.server.Requests("keys-6.json"); n != 2 {
		t.Errorf("keys-6.json was asked for %d times", n)
	}
	// Without a network they count all the same.
	w.stop()
	if c, err := w.load(t.Context()); err != nil || !c.Remembered || c.Root.Version != 5 {
		t.Errorf("%+v, %v", c.Root, err)
	}
}

// A manifest signed by a key that was replaced is refused, also after the lists
// were taken off the server.
func TestRevokedKey(t *testing.T) {
	w := newWorld(t)
	keys := w.chain(t, 2)
	_, err := w.load(t.Context())
	must(t, err)
	w.made.Manifest.Serial++
	for _, old := range keys[:2] {
		w.sign(t, old)
		if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "not signed by any trusted key") {
			t.Errorf("signed by %s: %v", old.id, err)
		}
	}
	for _, path := range w.files(t, "keys-*") {
		must(t, os.Remove(path))
	}
	w.sign(t, keys[0])
	if _, err := w.load(t.Context()); err == nil {
		t.Error("the lists are gone, and the revoked key counts again")
	}
	evil := newPair(t)
	w.rotate(t, 3, 1, []pair{evil}, []pair{keys[0], keys[1], evil})
	w.sign(t, evil)
	w.told()
	if _, err := w.load(t.Context()); err == nil {
		t.Error("revoked keys named a successor")
	}
	if told := w.told(); !strings.Contains(told, "key list 3") {
		t.Errorf("told %q", told)
	}
}

func TestThresholdsOfRotation(t *testing.T) {
	a, b, c := newPair(t), newPair(t), newPair(t)
	for name, test := range map[string]struct {
		by   func(own pair) []pair
		says string // "": followed
	}{
		"both thresholds":  {func(own pair) []pair { return []pair{own, a, b} }, ""},
		"old one missing":  {func(pair) []pair { return []pair{a, b} }, "1 signatures of the keys trusted so far are needed, there are 0"},
		"new one too few":  {func(own pair) []pair { return []pair{own, a} }, "2 signatures of its own keys are needed, there are 1"},
		"nobody":           {func(pair) []pair { return nil }, "there are 0 (none)"},
		"a stranger's too": {func(own pair) []pair { return []pair{own, a, newPair(t)} }, "there are 1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.rotate(t, 1, 2, []pair{a, b, c}, test.by(w.own(t)))
			w.sign(t, a)
			w.write(t, "manifest.json", mustRead(t, w.made.Address), []pair{a, c})
			got, err := w.load(t.Context())
			if test.says == "" {
				if err != nil || len(got.Signers) != 2 || got.Root.Threshold != 2 {
					t.Errorf("%v, %v", got.Signers, err)
				}
				return
			}
			if fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), test.says) {
				t.Errorf("err = %v, want one with %q", err, test.says)
			}
		})
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	return raw
}

// A key that a person named joins the lists where it is first among them, and is
// replaced like any other from there on.
func TestPersonsKeyJoinsLate(t *testing.T) {
	w := newWorld(t)
	keys := w.chain(t, 3)
	w.rules.Policy = trust.Policy{Roots: []trust.Root{{Keys: []string{keys[3].public}, Threshold: 1}}, Now: now}
	c, err := w.load(t.Context())
	if err != nil || c.Root.Version != 3 {
		t.Fatalf("%+v, %v", c.Root, err)
	}
	next := newPair(t)
	w.rotate(t, 4, 1, []pair{next}, []pair{keys[3], next})
	w.sign(t, next)
	if c, err := w.load(t.Context()); err != nil || c.Root.Version != 4 {
		t.Errorf("%+v, %v", c.Root, err)
	}
	if told := w.told(); told != "" {
		t.Errorf("warned: %s", told)
	}
}

// A list that is not signed as it must be is named, also to somebody whose key has
// not joined the lists; those after it are looked at all the same.
func TestBadListsBeforeTheFirstThatIsFollowed(t *testing.T) {
	a, b := newPair(t), newPair(t)
	for name, test := range map[string]struct {
		spoil   func(w *world, own pair)
		version int
	}{
		"unsigned":     {func(w *world, own pair) { w.rotate(t, 1, 1, []pair{a}, nil) }, 0},
		"by strangers": {func(w *world, own pair) { w.rotate(t, 1, 1, []pair{a}, []pair{a}) }, 0},
		"no list":      {func(w *world, own pair) { w.write(t, "keys-1.json", []byte("{}"), []pair{own}) }, 0},
		"joined later": {func(w *world, own pair) {
			w.rotate(t, 1, 1, []pair{a}, []pair{b})
			w.rotate(t, 2, 1, []pair{own}, []pair{own})
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			test.spoil(w, w.own(t))
			c, err := w.load(t.Context())
			if err != nil || c.Root.Version != test.version {
				t.Errorf("%+v, %v", c.Root, err)
			}
			if told := w.told(); strings.Count(told, "is not followed") != 1 || !strings.Contains(told, "key list 1 at "+w.url) {
				t.Errorf("told %q", told)
			}
		})
	}
}

// A release that was built with list 2 starts there.
func TestRootOfARelease(t *testing.T) {
	w := newWorld(t)
	keys := w.chain(t, 4)
	w.rules.Policy = trust.Policy{Roots: []trust.Root{{Version: 2, Keys: []string{keys[2].public}, Threshold: 1}}, Now: now}
	if c, err := w.load(t.Context()); err != nil || c.Root.Version != 4 || len(c.Document.Keys) != 2 {
		t.Errorf("%+v, %v", c.Root, err)
	}
	if n := w.server.Requests("keys-2.json"); n != 0 {
		t.Errorf("keys-2.json was asked for %d times", n)
	}
}

// The memory of the lists is lost: the keys that were given count again, somebody
// is told, and the lists are downloaded anew.
func TestKeyListsLost(t *testing.T) {
	w := newWorld(t)
	w.chain(t, 2)
	_, err := w.load(t.Context())
	must(t, err)
	folder := w.rules.Memory.Folder(w.url + "/manifest.json")
	for _, spoil := range []func(string) error{
		os.Remove,
		func(path string) error { return os.WriteFile(path, []byte("{"), 0o644) },
		func(path string) error { return os.Truncate(path, 0) },
	} {
		must(t, spoil(filepath.Join(folder, "keys-1.json")))
		w.told()
		if c, err := w.load(t.Context()); err != nil || c.Root.Version != 2 {
			t.Errorf("%+v, %v", c.Root, err)
		}
		if told := w.told(); !strings.Contains(told, "key list 1") || !strings.Contains(told, folder) {
			t.Errorf("told %q", told)
		}
		if _, err := w.load(t.Context()); err != nil || w.told() != "" {
			t.Errorf("not healed: %v", err)
		}
	}
}

// A list that cannot be had leaves the keys as they are, and is told.
func TestKeyListThatCannotBeHad(t *testing.T) {
	w := newWorld(t)
	keys := w.chain(t, 1)
	for name, f := range map[string]faulty.Fault{
		"web page": {Body: []byte("<html>hello</html>")}, "error": {Status: 401}, "huge": {Body: make([]byte, trust.MaxKeyList+1)},
	} {
		w.fresh(t)
		w.server.Set("keys-1.json", f)
		if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "key list 1 could not be had") {
			t.Errorf("%s: %v", name, err)
		}
		w.sign(t, keys[0])
		if _, err := w.load(t.Context()); err != nil {
			t.Errorf("%s: the manifest is signed by the old key too: %v", name, err)
		}
		if told := w.told(); !strings.Contains(told, "keys-1.json") {
			t.Errorf("%s: told %q", name, told)
		}
		w.sign(t, keys[1])
	}
}

// An object store that may not list its files answers 403 for those that it does
// not have: key lists, and signatures of keys that have not signed.
func TestForbiddenIsNotThere(t *testing.T) {
	w := newWorld(t)
	keys := w.chain(t, 1)
	w.server.Set("manifest.json."+keys[0].id+".minisig", faulty.Fault{Status: 403})
	w.server.Set("keys-2.json", faulty.Fault{Status: 403})
	if c, err := w.load(t.Context()); err != nil || c.Root.Version != 1 {
		t.Errorf("%+v, %v", c.Root, err)
	}
	if told := w.told(); told != "" {
		t.Errorf("warned: %s", told)
	}
	w.server.Set("manifest.json."+keys[1].id+".minisig", faulty.Fault{Status: 403})
	if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("no signature at all: %v", err)
	}
}

// A server with lists without end is asked for a bounded number.
func TestEndlessKeyLists(t *testing.T) {
	w := newWorld(t)
	own := w.own(t)
	for v := 1; v <= trust.MaxChain+6; v++ {
		w.rotate(t, v, 1, []pair{own}, []pair{own})
	}
	c, err := w.load(t.Context())
	if err != nil || c.Root.Version != trust.MaxChain {
		t.Errorf("version %d, %v", c.Root.Version, err)
	}
	if told := w.told(); !strings.Contains(told, "more than 64 key lists") {
		t.Errorf("told %q", told)
	}
	if c, err := w.load(t.Context()); err != nil || c.Root.Version != trust.MaxChain+6 {
		t.Errorf("the next time: version %d, %v", c.Root.Version, err)
	}
}

// What was remembered of another publisher at the address does not stand in the
// way of the keys that are given now.
func TestAnotherPublisher(t *testing.T) {
	w := newWorld(t)
	w.chain(t, 3)
	_, err := w.load(t.Context())
	must(t, err)
	for _, path := range w.files(t, "keys-*") {
		must(t, os.Remove(path))
	}
	other, next := newPair(t), newPair(t)
	w.rotate(t, 1, 1, []pair{next}, []pair{other, next})
	w.sign(t, next)
	w.rules.Policy = trust.Policy{Roots: []trust.Root{{Keys: []string{other.public}, Threshold: 1}}, Now: now}
	if c, err := w.load(t.Context()); err != nil || c.Root.Version != 1 || c.Signers[0] != next.id {
		t.Errorf("%+v, %v", c.Root, err)
	}
}

func TestDevelopmentKeyInARelease(t *testing.T) {
	w := newWorld(t)
	private, public, err := trust.NewDevelopmentKey(rand.Reader)
	must(t, err)
	id, err := trust.KeyID(public)
	must(t, err)
	w.sign(t, pair{private, public, id})
	w.rules.Policy = trust.Policy{Roots: []trust.Root{{Keys: []string{public}, Threshold: 1}}, Now: now, Development: true}
	if _, err := w.load(t.Context()); err != nil {
		t.Errorf("a development build: %v", err)
	}
	w.rules.Policy.Development = false
	if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "development key") {
		t.Errorf("a release: %v", err)
	}
}

// Nothing but the given keys, on a computer that has never seen the catalogue and
// has no network: there is nothing to believe.
func TestFirstRunWithoutNetwork(t *testing.T) {
	w := newWorld(t)
	w.stop()
	if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Network {
		t.Errorf("err = %v", err)
	}
	raw := mustRead(t, w.made.Address)
	id := w.own(t).id
	w.rules.Carried = &trust.Document{Raw: raw, Signatures: map[string][]byte{id: mustRead(t, trust.SignatureFile(w.made.Address, id))}}
	if c, err := w.load(t.Context()); err != nil || c.Manifest.Serial != 7 || c.Remembered || w.told() != "" {
		t.Errorf("with the copy in the program: %v", err)
	}
	w.rules.Policy.Now = now.AddDate(1, 0, 0)
	if c, err := w.load(t.Context()); err != nil || !c.Expired || !c.Remembered {
		t.Errorf("expired: %+v, %v", c, err)
	}
}

func quick() *fetch.Source {
	return fetch.New(fetch.Options{Wait: func(context.Context, time.Duration) error { return nil }})
}
