// Package resolve finds out what to launch: it loads a catalogue's manifest,
// decides whether to believe it, finds the row of an image and plans what has to
// be fetched for it.
//
// Output is values: a Catalogue and a Plan, which can be printed. The only thing
// kept on disk is the catalogue's memory (the trust room).
package resolve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
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
	Sink        event.Sink    // gets warnings; nil: none
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
// checks signatures, form, version and serial. When the address cannot be
// reached at all, the last manifest believed from there stands in.
func LoadCatalogue(ctx context.Context, source Source, address string, rules Rules) (Catalogue, error) {
	if rules.Sink == nil {
		rules.Sink = event.Discard{}
	}
	address, err := complete(address)
	if err != nil {
		return Catalogue{}, err
	}
	ids, err := rules.Policy.KeyIDs()
	if err != nil {
		return Catalogue{}, err
	}
	doc, err := download(ctx, source, address, ids)
	if err == nil {
		return accept(doc, rules)
	}
	if rules.Memory == nil || !errors.Is(err, fetch.ErrUnreachable) {
		return Catalogue{}, err
	}
	return recall(address, rules, err)
}

// accept turns a document into a catalogue or says why not, and remembers it.
func accept(doc trust.Document, rules Rules) (Catalogue, error) {
	c, err := check(doc, rules)
	if err != nil || rules.Memory == nil {
		return c, err
	}
	if err := rules.Memory.Remember(doc, c.Manifest.Serial); err != nil {
		warn(rules, "an older manifest could not be told from this one next time: %v", err)
	}
	return c, nil
}

// recall uses the last document; the reason it is needed is told.
func recall(address string, rules Rules, reason error) (Catalogue, error) {
	doc, err := rules.Memory.Last(address)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			warn(rules, "%v", err)
		}
		return Catalogue{}, reason
	}
	c, err := check(doc, rules)
	if err != nil {
		return Catalogue{}, fmt.Errorf("%w (it is the manifest seen last; the newest could not be had: %v)", err, reason)
	}
	c.Remembered = true
	warn(rules, "%v; going on with the manifest seen last (serial %d)", reason, c.Manifest.Serial)
	return c, nil
}

func check(doc trust.Document, rules Rules) (Catalogue, error) {
	shown := fetch.Shown(doc.Address)
	root, signers, err := rules.Policy.Judge(doc.Raw, doc.Signatures)
	if err != nil {
		return Catalogue{}, fmt.Errorf("use the manifest at %s: %w", shown, err)
	}
	m, err := manifest.Parse(doc.Raw)
	switch {
	case errors.Is(err, manifest.ErrSchema):
		return Catalogue{}, fault.New(fault.Trust, "A newer smolvm may read it.", "use the manifest at %s: %w", shown, err)
	case err != nil:
		return Catalogue{}, fault.New(fault.Trust, "Its signature is right, so its publisher made a mistake: tell them.",
			"use the manifest at %s: %w", shown, err)
	case !m.Supports(rules.Version):
		return Catalogue{}, fault.New(fault.Trust, "Install a newer smolvm.",
			"use the manifest at %s: it needs smolvm %s, this is %s", shown, m.MinVersion, rules.Version)
	}
	if err := checkSerial(doc.Address, m.Serial, rules); err != nil {
		return Catalogue{}, err
	}
	return Catalogue{
		Address: doc.Address, Manifest: m, Signers: signers, Root: root, Document: doc, Places: []string{doc.Address},
		Expired: rules.Policy.Expired(m.Expires),
	}, nil
}

// checkSerial falls back to the released floor, and says so, where the memory
// cannot be read.
func checkSerial(address string, serial int64, rules Rules) error {
	if rules.Memory == nil {
		return nil
	}
	err := rules.Memory.Check(address, serial, rules.FloorSerial)
	if err == nil || fault.CodeOf(err) == fault.Trust {
		return err
	}
	warn(rules, "%v; serials are checked against %d only", err, rules.FloorSerial)
	if serial < rules.FloorSerial {
		return fault.New(fault.Trust, "Somebody serves an old catalogue.",
			"use the manifest at %s: its serial %d is older than the %d of this program's own", fetch.Shown(address), serial, rules.FloorSerial)
	}
	return nil
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

// download gets the manifest and those signatures of trusted keys that are there.
func download(ctx context.Context, source Source, address string, keyIDs []string) (trust.Document, error) {
	raw, err := source.Get(ctx, address, manifest.MaxSize)
	if err != nil {
		return trust.Document{}, fmt.Errorf("load the manifest: %w", err)
	}
	doc := trust.Document{Address: address, Raw: raw, Signatures: map[string][]byte{}}
	for _, id := range keyIDs {
		signature, err := source.Get(ctx, trust.SignatureFile(address, id), trust.MaxSignature)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return trust.Document{}, fmt.Errorf("load the manifest's signature: %w", err)
		}
		doc.Signatures[id] = signature
	}
	return doc, nil
}

// complete makes an address that names the manifest file and does not depend on
// the current folder.
func complete(address string) (string, error) {
	switch {
	case address == "":
		return "", fault.New(fault.NotFound,
			"Name a manifest with --manifest or SMOLVM_MANIFEST (a path or URL), or run `make quickstart` to build and publish one here.",
			"no catalogue of images is configured")
	case strings.Contains(address, "://"):
		if strings.HasSuffix(address, "/") {
			address += manifestFile
		}
		return address, nil
	}
	path, err := filepath.Abs(address)
	if err != nil {
		return "", fmt.Errorf("find the manifest %s: %w", address, err)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, manifestFile)
	}
	return path, nil
}

func warn(rules Rules, format string, args ...any) {
	rules.Sink.Emit(event.Event{Time: rules.Policy.Now, Kind: event.Warning, Stage: event.Resolve, Text: fmt.Sprintf(format, args...)})
}
