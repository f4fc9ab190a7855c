package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// Holder is somebody who needs objects to stay.
type Holder struct {
	Name string // "sandbox claude-code"
	Keys []string
}

// PruneOptions say what may go.
type PruneOptions struct {
	// Holders is asked under the store's lock, after the leases were read: whoever
	// writes his record before he releases his lease is seen in one of the two.
	Holders func(context.Context) ([]Holder, error)
	Current []string // releases whose images stay unless All
	// CurrentKeys are the objects that the manifests name that are current. They
	// stay unless All, shown by an image or not, complete or still a partial, and
	// so does an image that consists of nothing else.
	CurrentKeys []string
	All         bool  // everything that nobody holds
	DryRun      bool  // only tell
	Keep        int64 // take the least recently used only until this many bytes are left; -1: take all that may go
	Now         time.Time
}

// Pruned is what was removed, or with DryRun would be.
type Pruned struct {
	Images   []string     `json:"images"`
	Objects  int          `json:"objects"`
	Partials int          `json:"partials"`
	Items    []PrunedItem `json:"items"`
	Freed    int64        `json:"freed"` // bytes that the disk gains
	Held     []Held       `json:"held"`
}

// PrunedItem is one thing that was removed. The sum of all Bytes is Freed.
type PrunedItem struct {
	Kind  string `json:"kind"` // image, object, partial, temp
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Held is something that stayed because somebody needs it.
type Held struct {
	Name string `json:"name"`
	By   string `json:"by"`
}

// Prune removes what nobody needs any more: images of releases that are not
// current, objects that no image shows and no current manifest names then, partials
// of others that nobody has continued for a day, and what killed processes left. Whatever a lease, a holder or a claim
// needs stays, and so does what a newer version has made.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	p, err := s.reduce(ctx, o.Holders, o.DryRun, func(v *survey) (choice, error) { return v.choose(o), nil })
	if err != nil {
		return p, s.Explain(fmt.Errorf("prune %s: %w", s.home, err))
	}
	return p, nil
}

// Remove removes images and the objects that only they need. It refuses when
// somebody needs one of the images.
func (s *Store) Remove(ctx context.Context, images []Image, holders func(context.Context) ([]Holder, error), dryRun bool) (Pruned, error) {
	p, err := s.reduce(ctx, holders, dryRun, func(v *survey) (choice, error) { return v.without(images) })
	if err != nil {
		return p, s.Explain(fmt.Errorf("remove %s: %w", strings.Join(imageNames(images), ", "), err))
	}
	return p, nil
}

func imageNames(images []Image) (names []string) {
	for _, image := range images {
		names = append(names, filepath.Base(image.Path))
	}
	return names
}

// reduce decides under the store's lock, takes what has to go out of its place,
// and deletes it when the lock is free again.
func (s *Store) reduce(ctx context.Context, holders func(context.Context) ([]Holder, error), dryRun bool, decide func(*survey) (choice, error)) (Pruned, error) {
	if dryRun {
		lock, err := s.lock(ctx)
		if err != nil {
			return Pruned{}, err
		}
		p, _, err := s.plan(ctx, true, holders, decide)
		return p, errors.Join(err, lock.Unlock())
	}
	var p Pruned
	var c choice
	err := s.retiring(ctx, func(b *bin) (err error) {
		p, c, err = s.plan(ctx, false, holders, decide)
		defer c.close()
		if err != nil {
			return err
		}
		return s.carryOut(c, b)
	})
	for _, path := range c.temps {
		err = errors.Join(err, s.removeAll(path))
	}
	return p, err
}

// plan looks, decides and weighs. The choice holds the claims of what goes until
// it is closed.
func (s *Store) plan(ctx context.Context, dryRun bool, holders func(context.Context) ([]Holder, error), decide func(*survey) (choice, error)) (Pruned, choice, error) {
	v, err := s.survey(ctx, holders)
	if err != nil {
		return Pruned{}, choice{}, err
	}
	c, err := decide(v)
	c.locks = v.keepLocks(c)
	if err != nil || dryRun { // nothing is done
		c.close()
	}
	if err != nil {
		return Pruned{}, choice{}, err
	}
	return s.weigh(c), c, nil
}

// choice is what goes, and what stays although it was asked for.
type choice struct {
	images   []View
	objects  []Object
	partials []string // keys
	temps    []string // paths
	leases   []string // paths
	empty    []string // paths of folders
	held     []Held
	locks    []locked
}

func (c choice) close() {
	for _, l := range c.locks {
		l.close()
	}
}

// carryOut moves what goes to the bin, images first, so that none shows an object
// that is gone. The caller holds the store's lock.
func (s *Store) carryOut(c choice, b *bin) error {
	for i := range c.locks { // a folder in the bin stays locked until it is deleted
		if folder := c.locks[i].folder; folder != nil {
			b.locks = append(b.locks, folder)
			c.locks[i].folder = nil
		}
	}
	var paths []string
	for _, v := range c.images {
		paths = append(paths, s.Folder(v))
	}
	for _, object := range c.objects {
		paths = append(paths, s.folder(object.Key))
	}
	for _, key := range c.partials {
		paths = append(paths, filepath.Join(s.partials, key))
	}
	parents := map[string]bool{}
	for _, path := range paths {
		if err := b.move(path); err != nil {
			return err
		}
		parents[filepath.Dir(path)] = true
	}
	return errors.Join(s.settleParents(parents), s.clearTemps(c))
}

// settleParents waits for the disk, and removes the folders of releases that are
// empty now.
func (s *Store) settleParents(parents map[string]bool) error {
	for dir := range parents {
		if filepath.Dir(dir) == s.images && os.Remove(dir) == nil {
			dir = s.images
		}
		if err := s.syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) clearTemps(c choice) error {
	var failed error
	for _, path := range c.leases {
		failed = errors.Join(failed, s.removeAll(path))
	}
	failed = errors.Join(failed, s.detach(c.temps...))
	for _, dir := range c.empty {
		_ = os.Remove(dir) // not empty any more: somebody uses it
	}
	return failed
}

// choose decides by age, use and release.
func (v *survey) choose(o PruneOptions) choice {
	c := choice{temps: v.temps, leases: v.leases, empty: v.empty}
	var stay []View
	for _, view := range v.views {
		holder := v.imageHolder(view)
		switch {
		case o.isCurrent(view):
			stay = append(stay, view)
		case holder != "":
			stay = append(stay, view)
			c.held = append(c.held, Held{view.Name(), holder})
		default:
			c.images = append(c.images, view)
		}
	}
	for _, object := range v.objects {
		holder := v.objectHolder(object.Key, o.All)
		switch {
		case o.isCurrentKey(object.Key):
		case slices.ContainsFunc(stay, func(view View) bool { return view.shows(object.Key) }):
		case holder != "":
			c.held = append(c.held, Held{nameOf(object), holder})
		default:
			c.objects = append(c.objects, object)
		}
	}
	v.choosePartials(&c, o)
	if o.Keep >= 0 {
		v.spare(&c, o.Keep)
	}
	return c
}

// isCurrent tells whether an image stays because of its release, or because a
// current one is the same.
func (o PruneOptions) isCurrent(view View) bool {
	if o.All {
		return false
	}
	if slices.Contains(o.Current, view.Release) {
		return true
	}
	old := func(f ViewFile) bool { return !o.isCurrentKey(f.Key) }
	return len(view.Files) > 0 && !slices.ContainsFunc(view.Files, old)
}

func (o PruneOptions) isCurrentKey(key string) bool {
	return !o.All && slices.Contains(o.CurrentKeys, key)
}

// partialAge is how long a partial may rest before a prune takes it. One that a
// wrong clock has dated as far ahead counts as old as well.
const partialAge = 24 * time.Hour

func (v *survey) choosePartials(c *choice, o PruneOptions) {
	for _, partial := range v.partials {
		if v.isNeedless(partial.key) {
			c.partials = append(c.partials, partial.key)
			continue
		}
		if o.isCurrentKey(partial.key) || !o.All && o.Now.Sub(partial.changed).Abs() <= partialAge {
			continue
		}
		if holder := v.partialHolder(partial.key); holder != "" {
			c.held = append(c.held, Held{"download of " + partial.key[:12], holder})
			continue
		}
		c.partials = append(c.partials, partial.key)
	}
}

// isNeedless tells whether a partial is of an object that is here: of a repair or
// of an archive that was not finished.
func (v *survey) isNeedless(key string) bool {
	ready := func(o Object) bool { return o.Key == key && o.State == Ready }
	return v.busy[key] == "" && slices.ContainsFunc(v.objects, ready)
}

// spare takes from the choice what may stay within keep bytes: the most recently
// used objects, and the images that are still whole then.
func (v *survey) spare(c *choice, keep int64) {
	left := v.allocated(c.partials)
	slices.SortStableFunc(c.objects, func(a, b Object) int { return a.Used.Compare(b.Used) })
	n := 0
	for n < len(c.objects) && left > keep {
		left -= c.objects[n].Allocated
		n++
	}
	there := map[string]bool{}
	for _, object := range v.objects {
		there[object.Key] = true
	}
	for _, object := range c.objects[:n] {
		there[object.Key] = false
	}
	c.objects = c.objects[:n]
	c.images = slices.DeleteFunc(c.images, func(view View) bool {
		return !slices.ContainsFunc(view.Files, func(f ViewFile) bool { return !there[f.Key] })
	})
}

// without decides to remove these images.
func (v *survey) without(images []Image) (choice, error) {
	var c choice
	stay := v.views
	for _, image := range images {
		i := slices.IndexFunc(stay, func(view View) bool { return view.Name() == image.Name() })
		if i < 0 {
			return c, fault.New(fault.NotFound, "`smolvm image list` names those that are here.", "remove image %s: it is not here", image.Name())
		}
		if holder := v.imageHolder(stay[i]); holder != "" {
			return c, fault.New(fault.Conflict, "Delete the sandbox, or wait for the command, that uses it.",
				"remove image %s: it is in use by %s", image.Name(), holder)
		}
		c.images = append(c.images, stay[i])
		stay = slices.Delete(slices.Clone(stay), i, i+1)
	}
	for _, object := range v.objects {
		shows := func(view View) bool { return view.shows(object.Key) }
		if !slices.ContainsFunc(c.images, shows) || slices.ContainsFunc(stay, shows) {
			continue
		}
		if holder := v.objectHolder(object.Key, false); holder != "" {
			c.held = append(c.held, Held{nameOf(object), holder})
			continue
		}
		c.objects = append(c.objects, object)
	}
	return c, nil
}

func nameOf(object Object) string {
	if object.Origin.Name == "" {
		return object.Key[:12]
	}
	return object.Origin.Name + " " + object.Key[:12]
}
