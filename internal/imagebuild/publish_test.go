package imagebuild

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/trust"
)

// newPublication makes an empty published folder with a key of its own; the clock
// is what now points to.
func newPublication(t *testing.T, b *Builder, now *time.Time) Publication {
	t.Helper()
	return Publication{
		Dir: filepath.Join(t.TempDir(), "images"), Signers: []Signer{newSigner(t)}, VMMs: []string{"qemu"},
		Base: b.base, Now: func() time.Time { return *now }, Sink: event.Discard{},
	}
}

// newSigner is a development key, as a checkout makes it.
func newSigner(t *testing.T) Signer {
	t.Helper()
	private, public, err := trust.NewDevelopmentKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Signer{private, public}
}

func published(t *testing.T) (Publication, []Image, *time.Time) {
	t.Helper()
	b, _ := newBuilder(t, t.TempDir())
	images, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	return newPublication(t, b, &now), images, &now
}

// verified reads the folder's manifest as a client would that trusts these keys.
func verified(t *testing.T, p Publication, threshold int, signers ...Signer) manifest.Manifest {
	t.Helper()
	root := trust.Root{Threshold: threshold}
	for _, s := range signers {
		root.Keys = append(root.Keys, s.Public)
	}
	m, err := load(t, p, root)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func load(t *testing.T, p Publication, root trust.Root) (manifest.Manifest, error) {
	t.Helper()
	c, err := resolve.LoadCatalogue(t.Context(), fetch.New(fetch.Options{}), p.Dir, resolve.Rules{
		Policy: trust.Policy{Roots: []trust.Root{root}, Development: true, Now: p.Now()}, Version: "dev",
	})
	return c.Manifest, err
}

func TestPublishedFolderIsComplete(t *testing.T) {
	p, images, now := published(t)
	m, err := p.Publish(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, verified(t, p, 1, p.Signers...)); diff != "" {
		t.Error(diff)
	}
	row := m.Rows[0]
	if row.Preset != "demo" || row.Arch != "amd64" || row.VMM != "qemu" || row.Kernel.StandIn != "Demo" || row.Kernel.Version != "6.12.1-demo" {
		t.Errorf("row %+v", row)
	}
	if m.Expires.Sub(*now) != 90*24*time.Hour || !strings.HasPrefix(m.Release, "dev-") {
		t.Errorf("release %s expires %v", m.Release, m.Expires)
	}
	for _, asset := range append([]manifest.Asset{row.Kernel.Image, *row.Kernel.Modules}, row.Layers...) {
		for _, blob := range []manifest.Blob{asset.Archive, asset.Index} {
			info, err := os.Stat(filepath.Join(p.Dir, blob.File))
			if err != nil || info.Size() != blob.Size || info.Mode().Perm() != 0o644 {
				t.Errorf("%s: %v %v", blob.File, info, err)
			}
		}
	}
	if parts, _ := filepath.Glob(filepath.Join(p.Dir, ".part-*")); len(parts) > 0 {
		t.Errorf("left: %v", parts)
	}
	if records, _ := filepath.Glob(filepath.Join(p.Dir, "build-demo-amd64-*.json")); len(records) != 1 {
		t.Errorf("build records: %v", records)
	}
}

func TestPublishingAgain(t *testing.T) {
	p, images, now := published(t)
	first, err := p.Publish(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	*now = now.Add(time.Hour)
	if same, err := p.Publish(t.Context(), images); err != nil || !cmp.Equal(first, same) {
		t.Errorf("nothing changed: %v %s", err, cmp.Diff(first, same))
	}
	*now = now.Add(70 * 24 * time.Hour)
	renewed, err := p.Publish(t.Context(), images)
	if err != nil || renewed.Serial <= first.Serial || !renewed.Expires.After(first.Expires) || renewed.Release != first.Release {
		t.Errorf("close to its end: %+v %v", renewed, err)
	}
	*now = now.Add(-100 * 24 * time.Hour) // a clock that went back never lowers the serial
	images[0].Preset.Name = "other"
	both, err := p.Publish(t.Context(), images)
	if err != nil || both.Serial <= renewed.Serial || len(both.Rows) != 2 || both.Release == renewed.Release {
		t.Errorf("a second row: serial %d rows %d %v", both.Serial, len(both.Rows), err)
	}
}

func TestReleaseIsNamed(t *testing.T) {
	p, images, now := published(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(time.Hour)
	p.Release = "1.2.0"
	if m, err := p.Publish(t.Context(), images); err != nil || m.Release != "1.2.0" {
		t.Errorf("%+v, %v", m.Release, err)
	}
	verified(t, p, 1, p.Signers...)
	p.Release = "../1"
	if _, err := p.Publish(t.Context(), images); err == nil {
		t.Error("a release that is a path")
	}
	verified(t, p, 1, p.Signers...)
}

func TestForeignSignatureIsReplaced(t *testing.T) {
	p, images, _ := published(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	p.Signers = []Signer{newSigner(t)}
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	verified(t, p, 1, p.Signers...)
}

func TestPublishedFilesAreNeverReplaced(t *testing.T) {
	p, images, _ := published(t)
	blob := images[0].Base.Assets[0].Archive
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(p.Dir, blob.File)
	if err := os.WriteFile(path, []byte("other bytes"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), blob.File) {
		t.Errorf("error %v", err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != "other bytes" {
		t.Error("the file was replaced")
	}
	if _, err := os.Stat(filepath.Join(p.Dir, ManifestFile)); err == nil {
		t.Error("a manifest was written all the same")
	}
}

func TestDamagedCacheIsNotPublished(t *testing.T) {
	p, images, _ := published(t)
	blob := images[0].Layer.Assets[0].Archive
	if err := os.WriteFile(filepath.Join(images[0].Layer.Dir, blob.File), make([]byte, blob.Size), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Storage {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(p.Dir, blob.File)); err == nil {
		t.Error("damaged bytes were published")
	}
}

func TestWithoutAKeyNothingIsPublished(t *testing.T) {
	p, images, _ := published(t)
	p.Signers = nil
	if _, err := p.Publish(t.Context(), images); err == nil {
		t.Error("published unsigned")
	}
	if _, err := os.Stat(filepath.Join(p.Dir, ManifestFile)); err == nil {
		t.Error("an unsigned manifest was written")
	}
}
