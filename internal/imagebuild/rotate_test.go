package imagebuild

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/trust"
)

func TestThresholdCatalogue(t *testing.T) {
	p, images, now := published(t)
	first, second := p.Signers[0], newSigner(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	before := verified(t, p, 1, first)
	if _, err := load(t, p, trust.Root{Keys: []string{first.Public, second.Public}, Threshold: 2}); err == nil {
		t.Error("one signature of two is enough")
	}
	*now = now.Add(time.Hour)
	p.Signers = append(p.Signers, second)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	if after := verified(t, p, 2, first, second); after.Serial <= before.Serial {
		t.Errorf("serial %d after %d", after.Serial, before.Serial)
	}
}

// A signature of the manifest before, by a key that signs no more, does not stay.
func TestStaleSignaturesGo(t *testing.T) {
	p, images, now := published(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(80 * 24 * time.Hour)
	p.Signers = []Signer{newSigner(t)}
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	if found := readSignatures(p.Dir, ManifestFile); len(found) != 1 {
		t.Errorf("%d signatures", len(found))
	}
}

func TestAKeyAndAnothersPublicHalf(t *testing.T) {
	p, images, _ := published(t)
	p.Signers[0].Public = newSigner(t).Public
	if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Usage {
		t.Errorf("%v", err)
	}
}

func TestMirrorsAreCarried(t *testing.T) {
	p, images, now := published(t)
	p.Mirrors = []string{"https://mirror.example/images/"}
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	p.Mirrors = nil
	*now = now.Add(80 * 24 * time.Hour)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	if m := verified(t, p, 1, p.Signers...); !slices.Equal(m.Mirrors, []string{"https://mirror.example/images/"}) {
		t.Errorf("mirrors %v", m.Mirrors)
	}
	p.Mirrors = []string{}
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	if m := verified(t, p, 1, p.Signers...); len(m.Mirrors) > 0 {
		t.Errorf("mirrors %v", m.Mirrors)
	}
	p.Mirrors = []string{"not an address"}
	if _, err := p.Publish(t.Context(), images); err == nil {
		t.Error("published")
	}
}

// rotation is to these keys, all of which must sign.
func rotation(p Publication, at []Signer, to ...Signer) Rotation {
	r := Rotation{Dir: p.Dir, Threshold: len(to), Signers: at, Now: p.Now, Sink: event.Discard{}}
	for _, s := range to {
		r.Keys = append(r.Keys, s.Public)
	}
	return r
}

// TestRotation goes through two lists. Who trusts the first key, the keys of the
// first list or of the second believes the folder after each step; who has lost
// the key cannot go on.
func TestRotation(t *testing.T) {
	p, images, now := published(t)
	old, a, b, c := p.Signers[0], newSigner(t), newSigner(t), newSigner(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	list, err := rotation(p, []Signer{old, a, b}, a, b).Publish(t.Context())
	if err != nil || list.Version != 1 || list.Threshold != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	verified(t, p, 1, old)
	verified(t, p, 2, a, b)

	if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "keys-1.json") {
		t.Errorf("publishing with the old key alone: %v", err)
	}
	p.Signers = []Signer{a, b}
	*now = now.Add(80 * 24 * time.Hour)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	verified(t, p, 1, old) // by the list, which has stayed
	if list, err = rotation(p, []Signer{a, b, c}, c).Publish(t.Context()); err != nil || list.Version != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	p.Signers = []Signer{c}
	*now = now.Add(80 * 24 * time.Hour)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	verified(t, p, 1, old)
	verified(t, p, 1, c)
	if _, err := load(t, p, trust.Root{Keys: []string{newSigner(t).Public}, Threshold: 1}); err == nil {
		t.Error("a stranger's key leads to it, too")
	}
}

// What nobody would follow is not written.
func TestRotationThatNobodyWouldFollow(t *testing.T) {
	p, images, _ := published(t)
	old, a, b := p.Signers[0], newSigner(t), newSigner(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	odd := rotation(p, []Signer{old, a}, a)
	odd.Threshold = 2
	given := rotation(p, []Signer{old, a}, a)
	given.From = trust.Root{Keys: []string{old.Public, b.Public}, Threshold: 2}
	for name, r := range map[string]Rotation{
		"without the old key": rotation(p, []Signer{a, b}, a, b),
		"without the new key": rotation(p, []Signer{old}, a),
		"half of the new":     rotation(p, []Signer{old, a}, a, b),
		"threshold":           odd,
		"from two":            given,
		"no keys":             rotation(p, []Signer{old}),
		"twice the same":      rotation(p, []Signer{old, a}, a, a),
	} {
		if _, err := r.Publish(t.Context()); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	after, err := os.ReadDir(p.Dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("%d files became %d", len(before), len(after))
	}
	verified(t, p, 1, old)
}

func TestBrokenKeyListStopsPublishing(t *testing.T) {
	p, images, _ := published(t)
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Dir, "keys-3.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("%v", err)
	}
}
