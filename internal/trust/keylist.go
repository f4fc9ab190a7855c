package trust

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
)

// KeyListSchema is the version of the key list that this program reads and writes.
const KeyListSchema = 1

// Bounds of key lists.
const (
	MaxKeyList = 16 << 10 // bytes
	MaxChain   = 64       // lists followed in one run
	maxKeys    = 32
	maxVersion = 1_000_000
)

// KeyList names the keys that take over from those of the list before it.
type KeyList struct {
	Schema    int       `json:"schema"`
	Version   int       `json:"version"` // 1, 2, 3 ...
	Threshold int       `json:"threshold"`
	Created   time.Time `json:"created"`
	Keys      []string  `json:"keys"` // minisign public keys without comments
}

// SignedFile is a key list as it was published.
type SignedFile struct {
	Version    int               `json:"version"`
	Raw        []byte            `json:"raw"`
	Signatures map[string][]byte `json:"signatures"` // by key id
}

// KeyListFile is the name of a key list, beside the manifest. Its signatures are
// in SignatureFile(KeyListFile(n), keyID).
func KeyListFile(version int) string { return "keys-" + strconv.Itoa(version) + ".json" }

// ParseKeyList reads a key list in the one form that EncodeKeyList writes: as
// strict as the manifest, and byte by byte the same when written again.
func ParseKeyList(raw []byte) (KeyList, error) {
	var list KeyList
	if err := manifest.DecodeStrict(raw, MaxKeyList, KeyListSchema, &list); err != nil {
		return KeyList{}, fmt.Errorf("read key list: %w", err)
	}
	again, err := EncodeKeyList(list)
	if err != nil {
		return KeyList{}, fmt.Errorf("read key list: %w", errors.Unwrap(err))
	}
	if string(again) != string(raw) {
		return KeyList{}, errors.New("read key list: it is not written in the one form that is allowed (see docs/decisions/format-key-list.md)")
	}
	return list, nil
}

// EncodeKeyList writes a list that ParseKeyList accepts.
func EncodeKeyList(list KeyList) ([]byte, error) {
	if err := list.validate(); err != nil {
		return nil, fmt.Errorf("write key list: %w", err)
	}
	raw, err := manifest.EncodeStrict(list, MaxKeyList)
	if err != nil {
		return nil, fmt.Errorf("write key list: %w", err)
	}
	return raw, nil
}

func (l KeyList) validate() error {
	switch {
	case l.Schema != KeyListSchema:
		return fmt.Errorf("%w %d, this program reads %d", manifest.ErrSchema, l.Schema, KeyListSchema)
	case l.Version < 1 || l.Version > maxVersion:
		return fmt.Errorf("version %d is not between 1 and %d", l.Version, maxVersion)
	case l.Created.IsZero() || !l.Created.Equal(l.Created.Truncate(time.Second)) || l.Created.Location() != time.UTC:
		return fmt.Errorf("created %v is not a time in UTC, in whole seconds", l.Created)
	case len(l.Keys) < 1 || len(l.Keys) > maxKeys:
		return fmt.Errorf("%d keys, 1 to %d are allowed", len(l.Keys), maxKeys)
	case l.Threshold < 1 || l.Threshold > len(l.Keys):
		return fmt.Errorf("threshold %d is not between 1 and the number of keys (%d)", l.Threshold, len(l.Keys))
	}
	return validateKeys(l.Keys)
}

// validateKeys refuses one owner counted twice, be it under two ids.
func validateKeys(texts []string) error {
	var ids, secrets []string
	for _, text := range texts {
		key, err := parsePublic(text)
		if err != nil {
			return err
		}
		id, secret := formatID(key.ID()), secretOf(key)
		switch {
		case text != key.String():
			return fmt.Errorf("key %s is not written as one line without a comment", id)
		case slices.Contains(ids, id) || slices.Contains(secrets, secret):
			return fmt.Errorf("key %s appears twice", id)
		}
		ids, secrets = append(ids, id), append(secrets, secret)
	}
	return nil
}

// Root is what the list says.
func (l KeyList) Root() Root {
	return Root{Version: l.Version, Keys: slices.Clone(l.Keys), Threshold: l.Threshold}
}

// Next is the root after a key list that follows on r: the next version (any
// version where r has none), signed by r's threshold and by its own.
func (r Root) Next(raw []byte, signatures map[string][]byte) (Root, error) {
	list, err := ParseKeyList(raw)
	if err != nil {
		return Root{}, fault.New(fault.Trust, "Its publisher made a mistake, or somebody changed it: tell them.", "follow a key list: %w", err)
	}
	if r.Version > 0 && list.Version != r.Version+1 {
		return Root{}, fault.New(fault.Trust, "", "follow key list %d: key list %d comes after %d", list.Version, r.Version+1, r.Version)
	}
	next := list.Root()
	if err := r.met(raw, signatures, list.Version, "the keys trusted so far"); err != nil {
		return Root{}, err
	}
	return next, next.met(raw, signatures, list.Version, "its own keys")
}

// met says whether the threshold of r has signed a key list.
func (r Root) met(raw []byte, signatures map[string][]byte, version int, whose string) error {
	signers, err := r.signers(raw, signatures, true)
	if err != nil {
		return fmt.Errorf("follow key list %d: %w", version, err)
	}
	if len(signers) >= r.Threshold {
		return nil
	}
	by := "none"
	if len(signers) > 0 {
		by = strings.Join(signers, ", ")
	}
	return fault.New(fault.Trust, "Ask its publisher whether the list is theirs; name their new key with --trusted-key FILE if it is.",
		"follow key list %d: %d signatures of %s are needed, there are %d (%s)", version, r.Threshold, whose, len(signers), by)
}

// Advance replaces each root that the key list follows on. It reports whether
// there was one; the error is why a root that it is the next list of was kept.
func (p Policy) Advance(list SignedFile) (Policy, bool, error) {
	next, followed := p, false
	next.Roots = p.roots()
	var refused error
	for i, root := range next.Roots {
		if root.Version > 0 && list.Version != root.Version+1 {
			continue
		}
		after, err := root.next(list, p.Development)
		if err != nil {
			refused = err
			continue
		}
		next.Roots[i], followed = after, true
	}
	return next, followed, refused
}

func (r Root) next(list SignedFile, development bool) (Root, error) {
	after, err := r.Next(list.Raw, list.Signatures)
	if err != nil {
		return r, err
	}
	if after.Version != list.Version {
		return r, fault.New(fault.Trust, "Its publisher made a mistake, or somebody changed it: tell them.",
			"follow key list %d: the file says that it is key list %d", list.Version, after.Version)
	}
	if _, err := after.parse(development); err != nil {
		return r, fmt.Errorf("follow key list %d: %w", list.Version, err)
	}
	return after, nil
}

// Version is the highest of the policy's roots.
func (p Policy) Version() int {
	version := 0
	for _, root := range p.roots() {
		version = max(version, root.Version)
	}
	return version
}
