package imagebuild

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

const (
	lifetime = 90 * 24 * time.Hour // of a published manifest
	renewal  = 30 * 24 * time.Hour // an unchanged manifest with less left is signed anew
)

// Signer is a key that signs what is published.
type Signer struct {
	Private string // minisign private key, unencrypted
	Public  string // its public half
}

func (p Publication) signers() []Signer {
	if p.Private == "" {
		return p.Signers
	}
	return append(slices.Clone(p.Signers), Signer{p.Private, p.Public})
}

// sign returns the signatures of all signers by key id. A private half whose
// public half is another key's is refused.
func sign(raw []byte, signers []Signer) (map[string][]byte, error) {
	signatures := make(map[string][]byte, len(signers))
	for _, s := range signers {
		signature, id, err := trust.Sign(raw, s.Private)
		if err != nil {
			return nil, fault.New(fault.Usage, "Give a minisign private key without a password, as minisign -G -W writes it.", "%w", err)
		}
		signatures[id] = signature
		if !s.signed(raw, signatures) {
			return nil, fault.New(fault.Usage, "Each private key needs its own public half beside it.",
				"sign with %s: the public key beside it is another one's", id)
		}
	}
	return signatures, nil
}

// signed reports whether the signer's signature is among them.
func (s Signer) signed(raw []byte, signatures map[string][]byte) bool {
	policy := trust.Policy{Roots: []trust.Root{{Keys: []string{s.Public}, Threshold: 1}}, Development: true}
	_, err := policy.Verify(raw, signatures)
	return err == nil
}

// checkSigners refuses keys with which nobody would believe the folder.
func (p Publication) checkSigners() error {
	where, signers := p.where(), p.signers()
	if p.Unsigned {
		if len(signers) > 0 {
			return fault.New(fault.Usage, "Leave the keys out, or sign now.", "publish to %s: unsigned, and with a key", where)
		}
		return nil
	}
	if len(signers) == 0 {
		return fault.New(fault.Usage, "Name a private key that signs.", "publish to %s: no key was given", where)
	}
	if _, err := sign(nil, signers); err != nil {
		return err
	}
	newest, err := newestKeyList(p.Dir)
	if err != nil || newest.Version == 0 {
		return err
	}
	count := 0
	for _, s := range signers {
		if newest.has(s.Public) {
			count++
		}
	}
	if count < newest.Threshold {
		return fault.New(fault.Usage, "Give more of its keys, or publish a newer key list.",
			"publish to %s: its %s wants signatures of %d of its keys, %d of those that were given are in it",
			where, trust.KeyListFile(newest.Version), newest.Threshold, count)
	}
	return nil
}

// signedManifest is what a folder's manifest says.
type signedManifest struct {
	manifest.Manifest
	raw        []byte
	signatures map[string][]byte
}

// readPublished reads the manifest that is there, if any. One that cannot be
// understood is not replaced: what it names, and which serial was the last, would
// be lost.
func readPublished(dir string) (p signedManifest, err error) {
	path := filepath.Join(dir, ManifestFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return signedManifest{}, nil
	}
	if err != nil {
		return signedManifest{}, fmt.Errorf("read the manifest that is there: %w", err)
	}
	if p.Manifest, err = manifest.Parse(raw); err != nil {
		return signedManifest{}, fault.New(fault.Conflict, "Use the smolvm that wrote it, or another folder. Remove it only if nobody uses it.",
			"%s is there and cannot be read: %w", path, err)
	}
	p.raw, p.signatures = raw, readSignatures(dir, ManifestFile)
	return p, nil
}

// readSignatures are the signatures that lie beside a file, by key id.
func readSignatures(dir, file string) map[string][]byte {
	signatures := map[string][]byte{}
	entries, _ := os.ReadDir(dir) // no folder, no signatures
	for _, e := range entries {
		id, ours := strings.CutPrefix(e.Name(), file+".")
		id, whole := strings.CutSuffix(id, ".minisig")
		info, err := e.Info()
		if !ours || !whole || err != nil || info.Size() > trust.MaxSignature {
			continue
		}
		if raw, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			signatures[id] = raw
		}
	}
	return signatures
}

// putManifest merges the rows into the folder's manifest, and signs and writes it
// unless a valid one says the same already.
func (p Publication) putManifest(rows []manifest.Row) (manifest.Manifest, error) {
	now := p.Now().UTC().Truncate(time.Second)
	old, err := readPublished(p.Dir)
	if err != nil {
		return manifest.Manifest{}, err
	}
	m := manifest.Manifest{
		Schema: manifest.Schema, Serial: max(now.Unix(), old.Serial+1),
		Created: now, Expires: now.Add(lifetime), Mirrors: p.Mirrors, Rows: mergeRows(old.Rows, rows),
	}
	if p.Mirrors == nil {
		m.Mirrors = old.Mirrors
	}
	m.Release = cmp.Or(p.Release, releaseName(m.Rows))
	same := reflect.DeepEqual(old.Rows, m.Rows) && slices.Equal(old.Mirrors, m.Mirrors) && (p.Release == "" || p.Release == old.Release)
	if same && old.Expires.Sub(now) > renewal && p.haveSigned(old) {
		return old.Manifest, nil
	}
	raw, err := manifest.Encode(m)
	if err != nil {
		return m, fmt.Errorf("write the manifest: %w", err)
	}
	return m, p.writeManifest(raw)
}

// haveSigned reports whether all signers have signed what is there.
func (p Publication) haveSigned(old signedManifest) bool {
	return !slices.ContainsFunc(p.signers(), func(s Signer) bool { return !s.signed(old.raw, old.signatures) })
}

// writeManifest puts the signatures before what they sign. Those of the manifest
// before, by keys that sign no more, go at last.
func (p Publication) writeManifest(raw []byte) error {
	signatures, err := sign(raw, p.signers())
	if err != nil {
		return fmt.Errorf("sign the manifest: %w", err)
	}
	if err := writeSignatures(p.Dir, ManifestFile, signatures); err != nil {
		return err
	}
	if err := writeAtomically(filepath.Join(p.Dir, ManifestFile), raw); err != nil {
		return err
	}
	for id := range readSignatures(p.Dir, ManifestFile) {
		if signatures[id] == nil {
			err := os.Remove(filepath.Join(p.Dir, trust.SignatureFile(ManifestFile, id)))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func writeSignatures(dir, file string, signatures map[string][]byte) error {
	for id, signature := range signatures {
		if err := writeAtomically(filepath.Join(dir, trust.SignatureFile(file, id)), signature); err != nil {
			return err
		}
	}
	return nil
}

// releaseName names a development release by its content.
func releaseName(rows []manifest.Row) string { return "dev-" + contentKey(rows)[:12] }
