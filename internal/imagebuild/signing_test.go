package imagebuild

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/trust"
)

func unsigned(t *testing.T) (Publication, *time.Time) {
	t.Helper()
	p, images, now := published(t)
	p.Signers, p.Unsigned = nil, true
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	return p, now
}

func signing(p Publication, signers ...Signer) (Signed, error) {
	return Signing{Dir: p.Dir, Signers: signers, Now: p.Now, Sink: p.Sink}.Sign(context.Background())
}

// TestSignedLater: nobody believes an unsigned folder; each signature that is
// added counts, and the manifest stays byte for byte.
func TestSignedLater(t *testing.T) {
	p, _ := unsigned(t)
	a, b := newSigner(t), newSigner(t)
	both := trust.Root{Keys: []string{a.Public, b.Public}, Threshold: 2}
	if _, err := load(t, p, trust.Root{Keys: []string{a.Public}, Threshold: 1}); fault.CodeOf(err) != fault.Trust {
		t.Errorf("an unsigned folder: %v", err)
	}
	before, err := os.ReadFile(filepath.Join(p.Dir, ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signing(p, a)
	if err != nil || len(signed.Signers) != 1 || signed.Missing != 0 {
		t.Fatalf("%+v, %v", signed, err)
	}
	verified(t, p, 1, a)
	if _, err := load(t, p, both); err == nil {
		t.Error("one of two signatures is enough")
	}
	if _, err := signing(p, b); err != nil {
		t.Fatal(err)
	}
	verified(t, p, 2, a, b)
	if after, _ := os.ReadFile(filepath.Join(p.Dir, ManifestFile)); string(after) != string(before) {
		t.Error("the manifest was changed")
	}
}

// Publishing again without a key keeps a signed manifest that says the same, and
// takes the signatures of one that does not.
func TestUnsignedAfterSigned(t *testing.T) {
	p, images, now := published(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	signer := p.Signers[0]
	p.Signers, p.Unsigned = nil, true
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	verified(t, p, 1, signer)
	*now = now.Add(80 * 24 * time.Hour)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	if found := readSignatures(p.Dir, ManifestFile); len(found) != 0 {
		t.Errorf("%d signatures of another manifest", len(found))
	}
	p.Signers = []Signer{signer}
	if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Usage {
		t.Errorf("unsigned and with a key: %v", err)
	}
}

func TestSigningRefuses(t *testing.T) {
	p, now := unsigned(t)
	old, a, b, stranger := newSigner(t), newSigner(t), newSigner(t), newSigner(t)
	if _, err := signing(p, Signer{a.Private, b.Public}); fault.CodeOf(err) != fault.Usage {
		t.Errorf("a key and another's public half: %v", err)
	}
	if _, err := signing(p, old); err != nil {
		t.Fatal(err)
	}
	if _, err := rotation(p, []Signer{old, a, b}, a, b).Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(time.Hour)
	if err := os.Remove(filepath.Join(p.Dir, ManifestFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.putManifest(nil); err != nil {
		t.Fatal(err)
	}
	before := len(readSignatures(p.Dir, ManifestFile))
	for name, s := range map[string]Signer{"stranger": stranger, "of an older list": old} {
		if _, err := signing(p, a, s); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := len(readSignatures(p.Dir, ManifestFile)); after != before {
		t.Errorf("%d signatures became %d", before, after)
	}
	if signed, err := signing(p, a); err != nil || signed.Missing != 1 {
		t.Errorf("one of two keys: %+v, %v", signed, err)
	}
	*now = now.Add(100 * 24 * time.Hour)
	if _, err := signing(p, a); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("expired: %v", err)
	}
	if err := os.WriteFile(filepath.Join(p.Dir, ManifestFile), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := signing(p, a); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("not a manifest: %v", err)
	}
	p.Dir = t.TempDir()
	if _, err := signing(p, a); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("an empty folder: %v", err)
	}
	p.Dir += "/none"
	if _, err := signing(p, a); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("no folder: %v", err)
	}
}
