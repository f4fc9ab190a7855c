package release

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/unpack"
)

// LoadOptions say whom to believe.
type LoadOptions struct {
	Options
	// Address is that of the catalogue the images shall belong to; empty: the one
	// that the tar names. A launch by that address then works without a network.
	Address string
	// Rules are those of the catalogue at an address.
	Rules func(address string) (resolve.Rules, error)
}

// Loaded is what Load took in.
type Loaded struct {
	Address string   `json:"manifest"`
	Release string   `json:"release"`
	Serial  int64    `json:"serial"`
	Signers []string `json:"signers"`
	Images  []Image  `json:"images"`
	Added   []string `json:"added"` // names of assets that were not here before
	Bytes   int64    `json:"bytes"` // of the tar
}

// Load reads a tar that Save wrote, once, from its first byte to its last, and
// makes its images be here. On an error nothing of it is visible.
func Load(ctx context.Context, st *store.Store, src io.Reader, o LoadOptions) (Loaded, error) {
	l := &loading{store: st, tar: &tarReader{src: interruptible(ctx, src)}, o: o}
	err := l.run(ctx)
	if err = errors.Join(err, l.release()); err != nil {
		return Loaded{}, fmt.Errorf("load images: %w", st.Explain(err))
	}
	m := l.catalogue.Manifest
	return Loaded{l.catalogue.Address, m.Release, m.Serial, l.catalogue.Signers, l.list.Images, l.added(), l.tar.read}, nil
}

// loading is one tar on its way in.
type loading struct {
	store *store.Store
	tar   *tarReader
	o     LoadOptions

	list      list
	rules     resolve.Rules
	catalogue resolve.Catalogue
	plans     []resolve.Plan // of the rows
	lease     *store.Lease
	assets    []*arriving
	progress  *progress
}

// arriving is an asset of the tar.
type arriving struct {
	asset manifest.Asset
	raw   []byte // its index
	index unpack.Index

	// Where it is not Ready:
	claim   *store.Claim
	writer  *unpack.Writer
	missing map[int]bool
}

// run does everything in the order of the tar: what is signed is believed before
// anything else is read, the space is known to suffice before the first frame,
// and nothing is adopted before the last byte was right.
func (l *loading) run(ctx context.Context) error {
	if err := l.believe(); err != nil {
		return err
	}
	rows, err := rowsOf(l.catalogue, l.list.Images)
	if err != nil {
		return err
	}
	if err := l.readIndexes(assetsOf(rows)); err != nil {
		return err
	}
	if l.lease, err = l.store.Lease(ctx, "image load", l.keys()); err != nil {
		return err
	}
	// What a killed run left harms nobody where it cannot be removed.
	if err := l.store.Sweep(ctx); err != nil && ctx.Err() != nil {
		return err
	}
	if err := l.plan(ctx, rows); err != nil {
		return err
	}
	decoder, err := unpack.NewDecoder()
	if err != nil {
		return err
	}
	defer decoder.Close()
	if err := l.prepare(ctx, decoder); err != nil {
		return err
	}
	if err := l.takeFrames(ctx, decoder.Slots()); err != nil {
		return err
	}
	if err := l.adopt(ctx); err != nil {
		return err
	}
	l.progress.done()
	return nil
}

// believe reads what is signed and decides like a launch that downloaded it.
func (l *loading) believe() error {
	raw, err := l.first()
	if err != nil {
		return err
	}
	if l.list, err = parseList(raw); err != nil {
		return err
	}
	doc := trust.Document{Address: l.list.Manifest}
	if l.o.Address != "" {
		if doc.Address, err = resolve.Complete(l.o.Address); err != nil {
			return err
		}
	}
	doc.Raw, doc.Signatures, err = readSigned(l.tar, manifestFile, manifest.MaxSize, l.list.Signers)
	if err != nil {
		return err
	}
	for _, file := range l.list.KeyLists {
		raw, signatures, err := readSigned(l.tar, trust.KeyListFile(file.Version), trust.MaxKeyList, file.Signers)
		if err != nil {
			return err
		}
		doc.Keys = append(doc.Keys, trust.SignedFile{Version: file.Version, Raw: raw, Signatures: signatures})
	}
	if l.rules, err = l.o.Rules(doc.Address); err != nil {
		return err
	}
	l.catalogue, err = resolve.Check(doc, l.rules)
	return err
}

// first reads the list, and says of another kind of file what it is not.
func (l *loading) first() ([]byte, error) {
	raw, err := l.tar.file(listFile, maxList)
	if err != nil && l.tar.read <= blockSize {
		return nil, fault.New(fault.Trust, "Give it what `smolvm image save` wrote; unpack it first where somebody compressed it.",
			"this is not a tar of images: %w", err)
	}
	return raw, err
}

// readIndexes reads the frame indexes and compares each with the manifest before
// it is parsed.
func (l *loading) readIndexes(assets []manifest.Asset) error {
	var total int64
	for _, asset := range assets {
		if total += asset.Index.Size; total > maxIndexes {
			return fault.New(fault.Trust, copyHint, "its indexes have more than %d bytes", maxIndexes)
		}
		raw, err := l.tar.file(indexEntry(asset.Index.SHA256), asset.Index.Size)
		if err != nil {
			return err
		}
		if digest(raw) != asset.Index.SHA256 {
			return fault.New(fault.Trust, copyHint, "verify the index of %s: %w", asset.Name, unpack.ErrDigest)
		}
		index, err := parseIndex(asset, raw)
		if err != nil {
			return err
		}
		l.assets = append(l.assets, &arriving{asset: asset, raw: raw, index: index})
	}
	return nil
}

// parseIndex reads an index that has the digest of the manifest.
func parseIndex(asset manifest.Asset, raw []byte) (unpack.Index, error) {
	index, err := unpack.ParseIndex(raw)
	if err == nil && (index.Size != asset.Content.Size || index.ArchiveSize() != asset.Archive.Size) {
		err = fmt.Errorf("it describes %d bytes in %d, the manifest %d in %d",
			index.Size, index.ArchiveSize(), asset.Content.Size, asset.Archive.Size)
	}
	if err != nil {
		return index, fault.New(fault.Trust, "The signed manifest and this file do not fit together: tell its publisher.",
			"use the index of %s: %w", asset.Name, err)
	}
	return index, nil
}

// plan looks at what is here. An expired manifest brings nothing new in.
func (l *loading) plan(ctx context.Context, rows []manifest.Row) error {
	for _, row := range rows {
		plan, err := l.catalogue.Plan(ctx, row, l.store)
		if err != nil {
			return err
		}
		l.plans = append(l.plans, plan)
	}
	return nil
}

// prepare claims what is not here, in the order of keys as everybody does, and
// finds out which frames it needs.
func (l *loading) prepare(ctx context.Context, decoder *unpack.Decoder) error {
	byKey := slices.SortedFunc(slices.Values(l.assets), func(a, b *arriving) int {
		return cmp.Compare(a.asset.Index.SHA256, b.asset.Index.SHA256)
	})
	var need int64
	for _, a := range byKey {
		if err := l.claim(ctx, a); err != nil {
			return fmt.Errorf("%s: %w", a.asset.Name, err)
		}
		if a.claim == nil {
			continue
		}
		if err := mayFetch(l.catalogue); err != nil {
			return err
		}
		if err := a.open(ctx, decoder); err != nil {
			return fmt.Errorf("%s: %w", a.asset.Name, err)
		}
		for number := range a.missing {
			need += a.index.Length(number)
		}
	}
	return l.store.Reserve(need)
}

// claim takes the right to an asset, unless it is here.
func (l *loading) claim(ctx context.Context, a *arriving) error {
	object, err := l.store.Lookup(ctx, a.asset.Index.SHA256)
	if err != nil || object.State == store.Ready {
		return err
	}
	claim, ready, err := l.store.Claim(ctx, a.asset.Index.SHA256, func(done, total int64) {
		l.o.sink().Emit(event.Event{
			Time: l.o.Now(), Kind: event.Progress, Stage: event.Wait, Object: a.asset.Name, Bytes: done, Total: total,
		})
	})
	if err == nil && !ready {
		a.claim = claim
	}
	return err
}

// open continues what an earlier run began.
func (a *arriving) open(ctx context.Context, decoder *unpack.Decoder) error {
	file, err := a.claim.Partial()
	if err != nil {
		return err
	}
	if err := a.claim.KeepIndex(a.raw); err != nil {
		return err
	}
	if a.writer, err = unpack.NewWriter(decoder, a.index, file); err != nil {
		return err
	}
	missing, err := a.writer.Missing(ctx)
	if err != nil {
		return err
	}
	a.missing = make(map[int]bool, len(missing))
	for _, number := range missing {
		if !a.index.Frames[number].Zero {
			a.missing[number] = true
		} else if err := a.writer.Zero(ctx, number); err != nil {
			return err
		}
	}
	return nil
}

// adopt makes everything part of the store, the manifest remembered, and the
// images shown.
func (l *loading) adopt(ctx context.Context) error {
	for _, a := range l.assets {
		if a.claim == nil {
			continue
		}
		origin := store.Origin{Name: a.asset.Name, Archive: a.asset.Archive.Digest, Content: a.asset.Content}
		if _, err := a.claim.Commit(ctx, origin, a.raw); err != nil {
			return fmt.Errorf("%s: %w", a.asset.Name, err)
		}
	}
	if err := l.remember(); err != nil {
		return err
	}
	for _, plan := range l.plans {
		if err := l.store.Show(ctx, plan.View()); err != nil {
			return err
		}
	}
	return nil
}

// remember keeps the manifest for its address. Nobody has signed which address a
// tar names: unless a person named it, what is remembered there already stays, or
// another catalogue of the same publisher could take its place, and its higher
// serial would have the right manifests refused.
func (l *loading) remember() error {
	if l.rules.Memory == nil {
		return nil
	}
	c := l.catalogue
	if l.o.Address == "" {
		seen, err := l.rules.Memory.Seen(c.Address)
		switch {
		case err != nil:
			return err
		case seen.Last != nil && bytes.Equal(seen.Last.Raw, c.Document.Raw):
			return nil
		case seen.Serial > 0 || len(seen.Keys) > 0:
			l.tellUnconfirmed(seen.Serial)
			return nil
		}
	}
	return l.rules.Memory.Remember(c.Document, c.Manifest.Serial)
}

func (l *loading) tellUnconfirmed(serial int64) {
	c := l.catalogue
	l.o.sink().Emit(event.Event{
		Time: l.o.Now(), Kind: event.Warning, Stage: event.Load,
		Text: fmt.Sprintf("only the tar says that its manifest (serial %d) is that of %s, where serial %d was seen: launches go on with what was seen there; if you know that it is right, load it with --manifest %s",
			c.Manifest.Serial, fetch.Shown(c.Address), serial, fetch.Shown(c.Address)),
	})
}

// release gives everything up. What has arrived of an asset that was not adopted
// stays in the store's partials: each frame of it is right.
func (l *loading) release() error {
	var err error
	for _, a := range l.assets {
		if a.claim != nil {
			err = errors.Join(err, a.claim.Release())
		}
	}
	if l.lease != nil {
		err = errors.Join(err, l.lease.Release())
	}
	return err
}

func (l *loading) keys() []string {
	keys := make([]string, len(l.assets))
	for i, a := range l.assets {
		keys[i] = a.asset.Index.SHA256
	}
	return keys
}

func (l *loading) added() []string {
	names := []string{}
	for _, a := range l.assets {
		if a.claim != nil {
			names = append(names, a.asset.Name)
		}
	}
	return names
}
