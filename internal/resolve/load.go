package resolve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// clockSlack is how far a manifest may be from the future before the clock is
// said to be wrong.
const clockSlack = 24 * time.Hour

// loader loads one catalogue, once.
type loader struct {
	source  Source
	rules   Rules
	address string // of the catalogue, complete
	policy  trust.Policy
	chain   []trust.SignedFile // the key lists that were followed
	links   int                // key lists that were looked at
	doubts  []string           // why a key list was not followed
	floor   int64              // the least serial
	last    Catalogue          // remembered; without an address: none
	lastErr error              // why the remembered one is not believed
	told    map[string]bool    // warnings, each once
	// forbidden is set when a place refused to hand out a signature, which is how
	// some say that there is none.
	forbidden atomic.Bool
}

func (l *loader) load(ctx context.Context) (Catalogue, error) {
	places := l.places()
	var failed []failure
	for i, place := range places {
		c, err := l.from(ctx, place)
		if err == nil {
			l.keep(c)
			l.tellTime(c)
			c.Places = l.order(c, failed)
			return c, nil
		}
		failed = append(failed, failure{place, err})
		if ctx.Err() != nil {
			return Catalogue{}, err
		}
		if i+1 < len(places) {
			l.warn("%v; asking %s", err, fetch.Shown(places[i+1]))
		}
	}
	err := gather(l.address, failed)
	if !away(failed[0]) {
		return Catalogue{}, err
	}
	return l.recall(err)
}

// places are where the manifest is asked for.
func (l *loader) places() []string {
	places := []string{l.address}
	for _, folder := range slices.Concat(l.rules.Mirrors, l.last.Manifest.Mirrors) {
		places = appendPlace(places, folder)
	}
	return places
}

// order is where the files of a manifest are asked for: places that have just
// failed come last.
func (l *loader) order(c Catalogue, failed []failure) []string {
	places := []string{l.address}
	for _, folder := range slices.Concat(l.rules.Mirrors, c.Manifest.Mirrors) {
		places = appendPlace(places, folder)
	}
	bad := func(place string) int {
		if slices.ContainsFunc(failed, func(f failure) bool { return f.place == place }) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(places, func(a, b string) int { return bad(a) - bad(b) })
	return places
}

// appendPlace adds the address of the manifest in a mirror's folder.
func appendPlace(places []string, folder string) []string {
	place := inFolder(folder)
	if slices.ContainsFunc(places, func(p string) bool { return config.SameAddress(p, place) }) {
		return places
	}
	return append(places, place)
}

func inFolder(folder string) string {
	switch {
	case strings.HasPrefix(folder, "oci://"), strings.HasSuffix(folder, "/"):
		return fetch.Beside(folder, manifestFile)
	case strings.HasSuffix(folder, "/"+manifestFile):
		return folder
	}
	return fetch.Beside(folder+"/", manifestFile)
}

// from loads the manifest that one place serves. A place where a new manifest
// was just being published may have given one's bytes and the other's signature.
func (l *loader) from(ctx context.Context, place string) (Catalogue, error) {
	l.forbidden.Store(false)
	doc, err := l.download(ctx, place)
	if err != nil {
		return Catalogue{}, err
	}
	c, err := l.check(doc, place)
	if errors.Is(err, errUnsigned) && ctx.Err() == nil {
		if doc, err = l.download(ctx, place); err != nil {
			return Catalogue{}, err
		}
		c, err = l.check(doc, place)
	}
	return c, err
}

// errUnsigned is wrapped where the signatures are not enough.
var errUnsigned = errors.New("not believed")

// unsigned adds errUnsigned to an error without changing its text.
type unsigned struct{ error }

func (u unsigned) Unwrap() []error { return []error{u.error, errUnsigned} }

// check turns a document into a catalogue or says why not.
func (l *loader) check(doc trust.Document, place string) (Catalogue, error) {
	shown := fetch.Shown(place)
	root, signers, err := l.policy.Judge(doc.Raw, doc.Signatures)
	if err != nil {
		return Catalogue{}, unsigned{fmt.Errorf("use the manifest at %s: %w%s", shown, err, l.doubt())}
	}
	m, err := manifest.Parse(doc.Raw)
	switch {
	case errors.Is(err, manifest.ErrSchema):
		return Catalogue{}, fault.New(fault.Trust, "A newer smolvm may read it.", "use the manifest at %s: %w", shown, err)
	case err != nil:
		return Catalogue{}, fault.New(fault.Trust, "Its signature is right, so its publisher made a mistake: tell them.",
			"use the manifest at %s: %w", shown, err)
	case !m.Supports(l.rules.Version):
		return Catalogue{}, fault.New(fault.Trust, "Install a newer smolvm.",
			"use the manifest at %s: it needs smolvm %s, this is %s", shown, m.MinVersion, l.rules.Version)
	}
	if err := l.checkSerial(m.Serial, shown); err != nil {
		return Catalogue{}, err
	}
	doc.Keys = slices.Clone(l.chain)
	return Catalogue{
		Address: l.address, Manifest: m, Signers: signers, Root: root, Document: doc, Places: []string{l.address},
		Expired: l.policy.Expired(m.Expires),
	}, nil
}

// doubt is what may be the reason that a signature is not believed.
func (l *loader) doubt() string {
	doubts := slices.Clone(l.doubts)
	if l.forbidden.Load() {
		doubts = append(doubts, "the server answers 403 Forbidden for a signature: it is not there, or not for you")
	}
	if len(doubts) == 0 {
		return ""
	}
	return " (" + strings.Join(doubts, "; ") + ")"
}

// tellTime says what the clock and the manifest have against each other.
func (l *loader) tellTime(c Catalogue) {
	m := c.Manifest
	if c.Expired {
		l.warn("the manifest at %s expired on %s: what is here still starts, nothing new is downloaded by it",
			fetch.Shown(c.Address), m.Expires.UTC().Format(time.DateOnly))
	}
	if now := l.policy.Time(); m.Created.After(now.Add(clockSlack)) {
		l.warn("the manifest at %s was made on %s, and this computer's clock says %s: set the clock, or expiry means nothing",
			fetch.Shown(c.Address), m.Created.UTC().Format(time.DateOnly), l.policy.Now.UTC().Format(time.DateOnly))
	}
}

func (l *loader) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if l.told[text] {
		return
	}
	if l.told == nil {
		l.told = map[string]bool{}
	}
	l.told[text] = true
	l.rules.Sink.Emit(event.Event{Time: l.policy.Now, Kind: event.Warning, Stage: event.Resolve, Text: text})
}

// failure is why a place gives no manifest.
type failure struct {
	place string
	err   error
}

// away reports whether there was no answer at all, as without a network, or on a
// disk that is not there.
func away(f failure) bool {
	local := !strings.Contains(f.place, "://") || strings.HasPrefix(f.place, "file://")
	return errors.Is(f.err, fetch.ErrUnreachable) || local && errors.Is(f.err, fs.ErrNotExist)
}

// gather makes one error of those of all places. A single place's says all.
func gather(address string, failed []failure) error {
	if len(failed) == 1 {
		return failed[0].err
	}
	code, hint := fault.Network, ""
	texts := make([]string, len(failed))
	for i, f := range failed {
		texts[i] = f.err.Error()
		if fault.CodeOf(f.err) == fault.Trust {
			code = fault.Trust
		}
		if hint == "" {
			hint = fault.HintOf(f.err)
		}
	}
	return fault.New(code, hint, "load the catalogue %s: none of its %d places has a manifest that can be used: %s",
		fetch.Shown(address), len(failed), strings.Join(texts, "; "))
}
