package acquire

import (
	"context"
	"os"
	"slices"

	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/unpack"
)

// local is a frame that lies on this computer. Whether it is what it was is
// found out like with any other: by its digest, before it is used.
type local struct {
	asset      *asset
	frame      int
	file       *os.File
	at, length int64
	packed     bool
	old        bool // of the damaged object that is replaced
}

// isSure tells whether a frame counts as being here before it was looked at. Of a
// damaged object that could not be verified nothing does.
func (l local) isSure() bool { return !l.old || len(l.asset.bad) > 0 }

// copier reads such frames until everything is done.
func (f *flight) copier(ctx context.Context) error {
	for {
		l, ok, err := f.board.nextLocal(ctx)
		if err != nil || !ok {
			return err
		}
		data, err := f.buffers.get(ctx, l.length)
		if err != nil {
			return err
		}
		if !l.isSure() {
			l.asset.moved.Add(l.asset.length(l.frame))
		}
		p := piece{asset: l.asset, frame: l.frame, data: data, packed: l.packed, old: l.old}
		if n, _ := l.file.ReadAt(data, l.at); int64(n) < l.length { // cut or unreadable: the network has it
			f.drop(p)
			f.buffers.put(data)
			continue
		}
		if err := f.send(ctx, p); err != nil {
			return err
		}
		f.report(l.asset)
	}
}

// wanted are missing frames by the digest of their content.
type wanted map[string][]local

// gather finds missing frames on this computer: in the damaged objects that are
// replaced, then in any other object, whatever release or catalogue it is of.
func (f *flight) gather(ctx context.Context, assets []*asset) (map[*asset][]local, error) {
	found := map[*asset][]local{}
	rest := wanted{}
	for _, a := range assets {
		for i := range a.frames {
			if l, ok := a.fromKept(i); ok {
				found[a] = append(found[a], l)
			} else if a.frames[i] == missing && a.archive == nil {
				digest := a.index.Frames[i].Content
				rest[digest] = append(rest[digest], local{asset: a, frame: i, length: a.index.Length(i)})
			}
		}
	}
	if len(rest) == 0 {
		return found, nil
	}
	objects, err := f.store.Objects(ctx)
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if len(rest) > 0 {
			f.lend(object, rest, found)
		}
	}
	return found, nil
}

// fromKept takes a missing frame out of what is under the asset's own key.
func (a *asset) fromKept(i int) (local, bool) {
	if a.frames[i] != missing {
		return local{}, false
	}
	switch {
	case a.packed != nil && a.packed[i]:
		a.frames[i] = taken
		return local{asset: a, frame: i, file: a.archive, at: a.index.Frames[i].Offset, length: a.length(i), packed: true}, true
	case a.archive == nil && a.old != nil && !slices.Contains(a.bad, i):
		a.frames[i] = taken
		return local{asset: a, frame: i, file: a.old, at: a.index.Place(i), length: a.index.Length(i), old: true}, true
	}
	return local{}, false
}

// lend takes what is wanted out of one object. An object that cannot be read
// gives nothing.
func (f *flight) lend(object store.Object, rest wanted, found map[*asset][]local) {
	raw, err := f.store.Index(object.Key)
	if err != nil {
		return
	}
	index, err := unpack.ParseIndex(raw)
	if err != nil {
		return
	}
	var file *os.File
	for i, frame := range index.Frames {
		for _, l := range rest[frame.Content] {
			if l.length != index.Length(i) {
				continue
			}
			if file == nil {
				if file = f.open(object.Path); file == nil {
					return
				}
			}
			l.file, l.at = file, index.Place(i)
			l.asset.frames[l.frame] = taken
			found[l.asset] = append(found[l.asset], l)
		}
		delete(rest, frame.Content)
	}
}

// open opens a stored file for the time of the flight; nil: it is none, or
// cannot be read.
func (f *flight) open(path string) *os.File {
	file, err := openRegular(path)
	if err != nil {
		return nil
	}
	f.files = append(f.files, file)
	return file
}
