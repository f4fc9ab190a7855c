package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/trust"
)

// Rotation is a new key list for a published folder: from then on its keys sign,
// and whoever trusted the keys before follows.
type Rotation struct {
	Dir       string
	Keys      []string // public halves of the new list's keys
	Threshold int      // how many of them have to sign
	// Signers sign the list: as many of the keys trusted so far as had to sign, and
	// as many of the new ones.
	Signers []Signer
	// From are the keys that users trust where the folder has no key list yet. With
	// no keys: those of the signers that have signed the manifest that is there.
	From trust.Root
	Now  func() time.Time
	Sink event.Sink
}

// Publish writes the next key list with its signatures, after the new keys have
// signed the manifest that is there: at every moment somebody with the old keys
// and somebody with the new ones believe the folder. It writes nothing that would
// not be believed.
func (r Rotation) Publish(ctx context.Context) (trust.KeyList, error) {
	lock, err := lockFolder(ctx, r.Dir, r.Sink)
	if err != nil {
		return trust.KeyList{}, err
	}
	defer lock.Close()
	list, raw, err := r.list()
	if err != nil {
		return trust.KeyList{}, fault.New(fault.Usage, "", "make the key list: %w", err)
	}
	signatures, err := sign(raw, r.Signers)
	if err != nil {
		return trust.KeyList{}, err
	}
	from, err := r.from()
	if err != nil {
		return trust.KeyList{}, err
	}
	next, err := from.Next(raw, signatures)
	if err != nil {
		return trust.KeyList{}, fault.New(fault.Usage, "Give the private keys of enough old and enough new keys.", "%w", err)
	}
	if err := r.signManifest(next); err != nil {
		return trust.KeyList{}, err
	}
	file := trust.KeyListFile(list.Version)
	if err := writeSignatures(r.Dir, file, signatures); err != nil {
		return trust.KeyList{}, err
	}
	return list, writeAtomically(filepath.Join(r.Dir, file), raw)
}

func (r Rotation) list() (trust.KeyList, []byte, error) {
	newest, err := newestKeyList(r.Dir)
	if err != nil {
		return trust.KeyList{}, nil, err
	}
	list := trust.KeyList{
		Schema: trust.KeyListSchema, Version: newest.Version + 1, Threshold: r.Threshold,
		Created: r.Now().UTC().Truncate(time.Second), Keys: bareKeys(r.Keys),
	}
	raw, err := trust.EncodeKeyList(list)
	return list, raw, err
}

// from are the keys that the list follows on.
func (r Rotation) from() (trust.Root, error) {
	newest, err := newestKeyList(r.Dir)
	switch {
	case err != nil:
		return trust.Root{}, err
	case newest.Version > 0:
		return newest.Root(), nil
	case len(r.From.Keys) > 0:
		return trust.Root{Keys: r.From.Keys, Threshold: r.From.Threshold}, nil
	}
	there, err := readPublished(r.Dir)
	if err != nil {
		return trust.Root{}, err
	}
	var root trust.Root
	for _, s := range r.Signers {
		if s.signed(there.raw, there.signatures) {
			root.Keys = append(root.Keys, s.Public)
		}
	}
	if root.Threshold = len(root.Keys); root.Threshold == 0 {
		return root, fault.New(fault.Usage, "Give the private key that signed it, too.",
			"publish a key list in %s: none of the keys that were given has signed its manifest", r.Dir)
	}
	return root, nil
}

// signManifest adds the new keys' signatures to the manifest that is there.
func (r Rotation) signManifest(next trust.Root) error {
	there, err := readPublished(r.Dir)
	if err != nil || there.raw == nil {
		return err
	}
	list := listed{KeyList: trust.KeyList{Keys: next.Keys}}
	signers := slices.DeleteFunc(slices.Clone(r.Signers), func(s Signer) bool { return !list.has(s.Public) })
	added, err := sign(there.raw, signers)
	if err != nil {
		return err
	}
	for id, signature := range added {
		there.signatures[id] = signature
	}
	policy := trust.Policy{Roots: []trust.Root{next}, Development: true}
	if _, err := policy.Verify(there.raw, there.signatures); err != nil {
		return fault.New(fault.Usage, "Give the private keys of enough new keys.", "sign the manifest in %s with the new keys: %w", r.Dir, err)
	}
	return writeSignatures(r.Dir, ManifestFile, added)
}

// listed is a key list of a folder.
type listed struct{ trust.KeyList }

// has reports whether a key is in the list, whatever its comment.
func (l listed) has(public string) bool {
	return slices.Contains(l.Keys, bareKeys([]string{public})[0])
}

// newestKeyList is the highest key list in a folder; version 0: there is none.
func newestKeyList(dir string) (listed, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return listed{}, fmt.Errorf("look for key lists in %s: %w", dir, err)
	}
	version := 0
	for _, e := range entries {
		var n int
		if _, err := fmt.Sscanf(e.Name(), "keys-%d.json", &n); err == nil && e.Name() == trust.KeyListFile(n) {
			version = max(version, n)
		}
	}
	if version == 0 {
		return listed{}, nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, trust.KeyListFile(version)))
	if err != nil {
		return listed{}, fmt.Errorf("read the key list: %w", err)
	}
	list, err := trust.ParseKeyList(raw)
	if err == nil && list.Version != version {
		err = fmt.Errorf("it says that it is key list %d", list.Version)
	}
	if err != nil {
		return listed{}, fault.New(fault.Conflict, "Put the right one there, or remove it if it was never published.",
			"use %s in %s: %w", trust.KeyListFile(version), dir, err)
	}
	return listed{list}, nil
}

// bareKeys are public keys without their comment lines.
func bareKeys(keys []string) []string {
	bare := make([]string, len(keys))
	for i, key := range keys {
		lines := strings.Split(strings.TrimSpace(key), "\n")
		bare[i] = strings.TrimSpace(lines[len(lines)-1])
	}
	return bare
}
