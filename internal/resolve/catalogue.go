// Package resolve finds out what to launch: it loads a catalogue's manifest,
// decides whether to believe it, finds the row of an image and plans what has to
// be fetched for it.
//
// Output is values: a Catalogue and a Plan, which can be printed. The only thing
// kept on disk is the catalogue's memory (the trust room).
package resolve

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// manifestFile is the manifest's name in a published folder.
const manifestFile = "manifest.json"

// Source reads small published files.
type Source interface {
	Get(ctx context.Context, address string, limit int64) ([]byte, error)
}

// Rules say what is believed.
type Rules struct {
	Policy      trust.Policy
	Memory      *trust.Memory // nil: nothing is remembered
	FloorSerial int64         // of the manifest this program was released with; 0: none
	Version     string        // of this program, against the manifest's min_version
	// Mirrors are the user's own, folders with the same files, asked after the
	// catalogue's address.
	Mirrors []string
	// Carried is the manifest that this program was released with: while it has
	// not expired, nothing is asked for. Nil: none.
	Carried *trust.Document
	Sink    event.Sink // gets warnings; nil: none
}

// Catalogue is a manifest that was believed.
type Catalogue struct {
	Address  string // of the manifest file; absolute where it is a path
	Manifest manifest.Manifest
	Signers  []string // ids of the trusted keys that signed it
	// Root is what believes it, after the key lists that were followed.
	Root trust.Root
	// Document is the manifest as it was published.
	Document trust.Document
	// Places are the addresses of the manifest wherever its files are published:
	// its own first, then the user's mirrors, then its publisher's.
	Places []string
	// Expired: what is here may still run, nothing more is fetched by it.
	Expired bool
	// Remembered: the address could not be reached, this is the last one seen.
	Remembered bool
}

// LoadCatalogue downloads the manifest at address (a file, or the folder or URL
// with a final slash that it is in) with the signatures of the trusted keys, and
// checks signatures, form, version and serial. Key lists beside it are followed
// first. Where the address fails, the user's mirrors and those of the manifest
// seen last are asked; when it cannot be reached at all and they do not help, the
// manifest seen last stands in.
func LoadCatalogue(ctx context.Context, source Source, address string, rules Rules) (Catalogue, error) {
	if rules.Sink == nil {
		rules.Sink = event.Discard{}
	}
	address, err := complete(address)
	if err != nil {
		return Catalogue{}, err
	}
	if _, err := rules.Policy.KeyIDs(); err != nil {
		return Catalogue{}, err
	}
	l := &loader{source: source, rules: rules, address: address, policy: rules.Policy}
	if err := l.remember(); err != nil {
		return Catalogue{}, err
	}
	if c, ok := l.carried(); ok {
		return c, nil
	}
	return l.load(ctx)
}

// Admit judges a manifest that came by another way than its address, such as a
// file, as if it had just been downloaded from there, and remembers it. Its key
// lists are followed.
func Admit(doc trust.Document, rules Rules) (Catalogue, error) {
	l, c, err := admit(doc, rules)
	if err == nil {
		l.keep(c)
	}
	return c, err
}

// Check is Admit without remembering, for a caller that first brings here what
// the manifest names.
func Check(doc trust.Document, rules Rules) (Catalogue, error) {
	_, c, err := admit(doc, rules)
	return c, err
}

func admit(doc trust.Document, rules Rules) (*loader, Catalogue, error) {
	if rules.Sink == nil {
		rules.Sink = event.Discard{}
	}
	if _, err := rules.Policy.KeyIDs(); err != nil {
		return nil, Catalogue{}, err
	}
	l := &loader{rules: rules, address: doc.Address, policy: rules.Policy}
	if err := l.remember(); err != nil {
		return nil, Catalogue{}, err
	}
	for _, list := range doc.Keys[:min(len(doc.Keys), trust.MaxChain)] {
		if _, err := l.advance(list); err != nil {
			l.doubts = append(l.doubts, err.Error())
		}
	}
	c, err := l.check(doc, doc.Address)
	if err != nil {
		return nil, Catalogue{}, err
	}
	l.tellTime(c)
	c.Places = l.order(c, nil)
	return l, c, nil
}

// Complete is the full address of a manifest, as LoadCatalogue makes it of what a
// person wrote, and as its memory knows it.
func Complete(written string) (string, error) { return complete(written) }

// carried gives the copy that the program carries, while it may be used.
func (l *loader) carried() (Catalogue, bool) {
	if l.rules.Carried == nil {
		return Catalogue{}, false
	}
	doc := *l.rules.Carried
	doc.Address = l.address
	c, err := l.check(doc, l.address)
	if err != nil || c.Expired {
		return Catalogue{}, false
	}
	l.keep(c)
	c.Places = l.order(c, nil)
	return c, true
}

// Find gives the row of one image.
func (c Catalogue) Find(preset, arch, vmm string) (manifest.Row, bool) {
	for _, row := range c.Manifest.Rows {
		if row.Preset == preset && row.Arch == arch && row.VMM == vmm {
			return row, true
		}
	}
	return manifest.Row{}, false
}

// complete makes an address that names the manifest file and does not depend on
// the current folder.
func complete(address string) (string, error) {
	switch {
	case address == "":
		return "", fault.New(fault.NotFound,
			"Name a manifest with --manifest or SMOLVM_MANIFEST (a path or URL), or run `make quickstart` to build and publish one here. SMOLVM_USE_PUBLISHED=0 builds what is started here, which takes long.",
			"no catalogue of images is configured")
	case strings.Contains(address, "://"):
		if strings.HasSuffix(address, "/") || strings.HasPrefix(address, "oci://") || isLocalFolder(address) {
			address = inFolder(address)
		}
		return address, nil
	}
	path, err := filepath.Abs(address)
	if err != nil {
		return "", fmt.Errorf("find the manifest %s: %w", address, err)
	}
	if isFolder(path) {
		path = filepath.Join(path, manifestFile)
	}
	return path, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// isLocalFolder recognizes file:///FOLDER, which may be written like a path.
func isLocalFolder(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "file" && isFolder(u.Path)
}
