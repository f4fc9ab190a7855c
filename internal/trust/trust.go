// Package trust decides whether the bytes of a manifest may be believed: who
// signed them, which keys took over from the ones that were given, whether the
// manifest has expired, and whether a newer one was seen.
//
// Input is raw bytes, minisign signatures and a policy; of a manifest nothing
// inside the bytes is looked at. The only thing kept on disk is the Memory of a
// catalogue, whose every step is one atomic file operation, so a crash loses at
// most the step.
package trust

import (
	"maps"
	"slices"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/smolvm/smolvm/internal/fault"
)

// Policy says which signatures count.
type Policy struct {
	// Roots are believed one by one: the threshold of any of them is enough.
	Roots []Root
	// Development accepts development keys, which a release never does.
	Development bool
	Now         time.Time // the host's clock
	Floor       time.Time // build time: the clock is never believed to be earlier
}

// Root is a set of keys of which a threshold has to sign.
type Root struct {
	Version   int      // 0: given by a person or the build; n: key list n
	Keys      []string // minisign public keys, each with or without its comment line
	Threshold int      // at least 1
}

// Verify checks the signatures of raw, given by any name (a file name, a key
// id), and returns the ids of the policy's keys that have signed, sorted. It is
// an error when no root's threshold is met. Signatures by other keys are
// ignored, several by one key count once.
func (p Policy) Verify(raw []byte, signatures map[string][]byte) (signers []string, err error) {
	_, signers, err = p.Judge(raw, signatures)
	return signers, err
}

// Judge is Verify, and says which root believes the bytes.
func (p Policy) Judge(raw []byte, signatures map[string][]byte) (Root, []string, error) {
	roots := p.roots()
	if len(roots) == 0 {
		return Root{}, nil, noKey()
	}
	var best []string
	var refused error
	for _, root := range roots {
		signers, err := root.signers(raw, signatures, p.Development)
		switch {
		case err != nil:
			return Root{}, nil, err
		case len(signers) >= root.Threshold:
			return root, signers, nil
		case refused == nil || len(signers) > len(best):
			best, refused = signers, tooFew(root.Threshold, signers, signatures)
		}
	}
	return Root{}, best, refused
}

// KeyIDs are the ids of the policy's keys, sorted, each once.
func (p Policy) KeyIDs() ([]string, error) {
	ids := map[string]bool{}
	for _, root := range p.roots() {
		keys, err := root.parse(p.Development)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			ids[formatID(key.ID())] = true
		}
	}
	if len(ids) == 0 {
		return nil, noKey()
	}
	return slices.Sorted(maps.Keys(ids)), nil
}

// Time is the moment that expiry is judged at: the clock, or the floor where
// the clock is behind it.
func (p Policy) Time() time.Time {
	if p.Now.Before(p.Floor) {
		return p.Floor
	}
	return p.Now
}

// Expired reports whether something that expires at t has, by the policy's time.
func (p Policy) Expired(t time.Time) bool { return !p.Time().Before(t) }

// roots are those that name keys.
func (p Policy) roots() []Root {
	return slices.DeleteFunc(slices.Clone(p.Roots), func(root Root) bool { return len(root.Keys) == 0 })
}

// signers are the ids of the root's keys that have signed, sorted.
func (r Root) signers(raw []byte, signatures map[string][]byte, development bool) ([]string, error) {
	keys, err := r.parse(development)
	if err != nil {
		return nil, err
	}
	var signers []string
	for _, key := range keys {
		if signedBy(key, raw, signatures) {
			signers = append(signers, formatID(key.ID()))
		}
	}
	slices.Sort(signers)
	return signers, nil
}

// parse reads the root's keys, each once, whatever id it is written with.
func (r Root) parse(development bool) (map[string]minisign.PublicKey, error) {
	if r.Threshold < 1 {
		return nil, fault.New(fault.Trust, "Correct the threshold where the keys are listed.",
			"check the manifest's signature: threshold %d is below 1", r.Threshold)
	}
	keys := make(map[string]minisign.PublicKey, len(r.Keys))
	for _, text := range r.Keys {
		key, err := parsePublic(text)
		if err != nil {
			return nil, err
		}
		if id := formatID(key.ID()); IsDevelopment(id) && !development {
			return nil, fault.New(fault.Trust,
				"It signs what a checkout built for itself. Use a smolvm built in that checkout (make build), or sign with another key.",
				"trust key %s: it is a development key, which a release never believes", id)
		}
		keys[secretOf(key)] = key
	}
	return keys, nil
}

func signedBy(key minisign.PublicKey, raw []byte, signatures map[string][]byte) bool {
	for _, signature := range signatures {
		if len(signature) <= MaxSignature && minisign.Verify(key, raw, signature) {
			return true
		}
	}
	return false
}

func noKey() error {
	return fault.New(fault.Trust,
		"Name the publisher's key with `smolvm config trust add KEY`, or for this run with --trusted-key FILE. `make build` links in the key of what its own checkout publishes.",
		"check the manifest's signature: no key is trusted")
}

// tooFew says what was there instead of the needed signatures.
func tooFew(threshold int, signers []string, signatures map[string][]byte) error {
	const hint = "Use a catalogue signed by a key you trust, or name its key with --trusted-key FILE."
	if len(signatures) == 0 {
		return fault.New(fault.Trust, hint, "check the manifest's signature: it is not signed by any trusted key")
	}
	if len(signers) == 0 {
		return fault.New(fault.Trust, hint, "check the manifest's signature: no signature of a trusted key fits it")
	}
	return fault.New(fault.Trust, hint, "check the manifest's signature: signed by %s, but %d signatures are needed",
		strings.Join(signers, ", "), threshold)
}
