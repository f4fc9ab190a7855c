package resolve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// atOnce is how many small files are asked for at the same time.
const atOnce = 8

// download gets the manifest and those signatures of trusted keys that are there,
// and follows the key lists that are published beside it. All that is known to
// be needed is asked for at once.
func (l *loader) download(ctx context.Context, place string) (trust.Document, error) {
	ids, err := l.policy.KeyIDs()
	if err != nil {
		return trust.Document{}, err
	}
	var raw, list []byte
	var signatures map[string][]byte
	var errRaw, errList, errSigned error
	next := l.policy.Version() + 1
	var group sync.WaitGroup
	group.Go(func() { raw, errRaw = l.source.Get(ctx, place, manifest.MaxSize) })
	group.Go(func() { signatures, errSigned = l.signatures(ctx, place, ids) })
	group.Go(func() { list, errList = l.keyList(ctx, place, next) })
	group.Wait()
	if errRaw != nil {
		return trust.Document{}, fmt.Errorf("load the manifest: %w", errRaw)
	}
	if errSigned == nil && l.follow(ctx, place, next, list, errList) {
		signatures, errSigned = l.moreSignatures(ctx, place, signatures)
	}
	if errSigned != nil {
		return trust.Document{}, fmt.Errorf("load the manifest's signature: %w", errSigned)
	}
	return trust.Document{Address: l.address, Raw: raw, Signatures: signatures}, nil
}

// moreSignatures adds those of keys that are trusted since key lists were followed.
func (l *loader) moreSignatures(ctx context.Context, place string, have map[string][]byte) (map[string][]byte, error) {
	ids, err := l.policy.KeyIDs()
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { _, ok := have[id]; return ok })
	more, err := l.signatures(ctx, place, ids)
	maps.Copy(more, have)
	return more, err
}

// signatures gets the signatures of a file by the keys with these ids, as far as
// there are some.
func (l *loader) signatures(ctx context.Context, file string, ids []string) (map[string][]byte, error) {
	all, errs := make([][]byte, len(ids)), make([]error, len(ids))
	slots := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i, id := range ids {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			all[i], errs[i] = l.source.Get(ctx, trust.SignatureFile(file, id), trust.MaxSignature)
		})
	}
	group.Wait()
	found := map[string][]byte{}
	for i, id := range ids {
		if errors.Is(errs[i], fetch.ErrForbidden) {
			l.forbidden.Store(true)
		}
		switch {
		case errs[i] == nil:
			found[id] = all[i]
		case !notThere(errs[i]):
			return found, errs[i]
		}
	}
	return found, nil
}

// keyList gets a key list; none, without an error, where it is not published.
func (l *loader) keyList(ctx context.Context, place string, version int) ([]byte, error) {
	raw, err := l.source.Get(ctx, fetch.Beside(place, trust.KeyListFile(version)), trust.MaxKeyList)
	if notThere(err) {
		return nil, nil
	}
	return raw, err
}

// notThere reports whether a file that need not be there is not. An object store
// that may not list its files answers so for each that it does not have.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fetch.ErrForbidden)
}

// follow walks the key lists of a place from one that was asked for already, and
// reports whether the trusted keys are others now. A list that cannot be had or
// is not for us ends the walk: the manifest is then judged by the keys so far.
func (l *loader) follow(ctx context.Context, place string, version int, raw []byte, err error) (changed bool) {
	l.doubts = nil
	first := version
	for ; raw != nil && err == nil; version++ {
		if l.links++; l.links > trust.MaxChain {
			l.warn("%s publishes more than %d key lists; the rest has to wait for the next time", fetch.Shown(place), trust.MaxChain)
			return changed
		}
		followed, refused := l.followOne(ctx, place, version, raw)
		changed = changed || followed
		if refused != nil && l.mustEnd(place, version, refused) {
			return changed
		}
		raw, err = l.keyList(ctx, place, version+1)
	}
	if err != nil {
		l.doubts = append(l.doubts, fmt.Sprintf("key list %d could not be had", version))
		l.warn("%v; going on with the keys trusted so far", err)
	}
	if l.policy.Version() == 0 && len(l.doubts) > 0 && err == nil { // it has joined none of them
		l.notFollowed(place, first, l.doubts[0])
	}
	return changed
}

func (l *loader) followOne(ctx context.Context, place string, version int, raw []byte) (bool, error) {
	ids, err := l.policy.KeyIDs()
	if err != nil {
		return false, err
	}
	if list, err := trust.ParseKeyList(raw); err == nil {
		own, err := trust.Policy{Roots: []trust.Root{list.Root()}, Development: true}.KeyIDs()
		if err == nil {
			ids = slices.Compact(slices.Sorted(slices.Values(append(ids, own...))))
		}
	}
	signatures, err := l.signatures(ctx, fetch.Beside(place, trust.KeyListFile(version)), ids)
	if err != nil {
		return false, err
	}
	list := trust.SignedFile{Version: version, Raw: raw, Signatures: signatures}
	followed, err := l.advance(list)
	if followed {
		return true, nil
	}
	if err != nil && !signedByItsOwn(list) {
		l.notFollowed(place, version, err.Error())
	}
	return false, err
}

// signedByItsOwn reports whether a list is a right one, of whomever.
func signedByItsOwn(list trust.SignedFile) bool {
	parsed, err := trust.ParseKeyList(list.Raw)
	if err != nil || parsed.Version != list.Version {
		return false
	}
	_, err = trust.Policy{Roots: []trust.Root{parsed.Root()}, Development: true}.Verify(list.Raw, list.Signatures)
	return err == nil
}

func (l *loader) notFollowed(place string, version int, why string) {
	l.warn("key list %d at %s is not followed: %s", version, fetch.Shown(place), why)
}

// mustEnd reports whether a list that was not followed ends the walk. A key that
// a person named has no version: it joins the lists at the first that it signed,
// and those before it are nobody's fault.
func (l *loader) mustEnd(place string, version int, refused error) bool {
	l.doubts = append(l.doubts, refused.Error())
	if l.policy.Version() == 0 {
		return false
	}
	l.notFollowed(place, version, refused.Error())
	return true
}
