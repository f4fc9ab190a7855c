package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// release makes an image of that release with a base that all share and a layer of
// its own.
func release(t testing.TB, s *Store, name string) View {
	t.Helper()
	base := keyOf("index of base")
	if s.look(base).State == Absent {
		add(t, s, "base", strings.Repeat("base", 5000))
	}
	layer := add(t, s, "layer"+name, strings.Repeat("layer", 4000))
	v := view("base", base)
	v.Release = name
	v.Files = append(v.Files, ViewFile{Name: "layer", Key: layer, Archive: keyOf("archive layer" + name)})
	must(t, s.Show(t.Context(), v))
	return v
}

// The releases that are not current go with what only they need; what the current
// one shares with them stays, and is still known to be unchanged.
func TestPruneOldReleases(t *testing.T) {
	s := open(t)
	old, current := release(t, s, "1"), release(t, s, "2")
	o := PruneOptions{Current: []string{"2"}, Keep: -1, Now: time.Now(), DryRun: true}
	dry := prune(t, s, o)
	if !s.isShown(old) {
		t.Error("a dry run removed something")
	}
	o.DryRun = false
	p := prune(t, s, o)
	if !slices.Equal(p.Images, []string{old.Name()}) || p.Objects != 1 || p.Freed != dry.Freed || p.Freed < 20_000 || p.Freed > 70_000 {
		t.Errorf("%+v\ndry %+v", p, dry)
	}
	if _, err := os.Lstat(filepath.Join(s.images, "1")); err == nil {
		t.Error("the folder of the release stays")
	}
	for _, f := range current.Files {
		if got := s.look(f.Key).State; got != Ready {
			t.Errorf("%s is %s", f.Name, got)
		}
	}
	if !s.isShown(current) {
		t.Error("the current image is not shown any more")
	}
}

// A stopped sandbox holds the image it was made of, whatever is asked.
func TestPruneSparesSandboxes(t *testing.T) {
	s := open(t)
	old, _ := release(t, s, "1"), release(t, s, "2")
	box := Holder{"sandbox claude-code", []string{old.Files[0].Key, old.Files[1].Key}}
	p := prune(t, s, all(box))
	if !s.isShown(old) || len(p.Images) != 1 || p.Objects != 1 || len(p.Held) != 1 || p.Held[0] != (Held{old.Name(), box.Name}) {
		t.Errorf("%+v", p)
	}
	if p := prune(t, s, all()); len(p.Images) != 1 || p.Objects != 2 || len(p.Held) != 0 {
		t.Errorf("%+v", p)
	}
}

// An error of whoever knows the holders ends the prune before anything went.
func TestPruneNeedsToKnow(t *testing.T) {
	s := open(t)
	v := release(t, s, "1")
	o := all()
	o.Holders = func(context.Context) ([]Holder, error) { return nil, errors.New("cannot read the records") }
	if _, err := s.Prune(t.Context(), o); err == nil || !s.isShown(v) {
		t.Errorf("pruned without knowing the sandboxes: %v", err)
	}
}

// Holders are asked after the leases were read, so a launch that writes its record
// and then gives its lease back is seen in one of the two.
func TestHandoverFromLeaseToRecord(t *testing.T) {
	s := open(t)
	v := release(t, s, "1")
	keys := []string{v.Files[0].Key, v.Files[1].Key}
	lease, err := s.Lease(t.Context(), "launch", keys)
	must(t, err)
	o := all()
	o.Holders = func(context.Context) ([]Holder, error) { return nil, lease.Release() } // at the worst moment
	if p := prune(t, s, o); p.Objects != 0 || len(p.Held) == 0 {
		t.Errorf("%+v", p)
	}
}

func TestPruneKeepsTheRecentlyUsed(t *testing.T) {
	s := open(t)
	var sizes int64
	for i, name := range []string{"old", "middle", "new"} {
		key := add(t, s, name, strings.Repeat("x", 8000))
		when := time.Now().Add(time.Duration(i-10) * time.Hour)
		must(t, os.Chtimes(s.folder(key), when, when))
		sizes += s.look(key).Allocated
	}
	o := all()
	for keep, want := range map[int64]int{sizes: 0, sizes - 1: 1} {
		o.Keep = keep
		if p := prune(t, s, o); p.Objects != want {
			t.Errorf("keep %d of %d: %+v", keep, sizes, p)
		}
	}
	o.Keep = sizes / 3
	if p := prune(t, s, o); state(t, s, keyOf("index of new")) != Ready || state(t, s, keyOf("index of middle")) != Absent {
		t.Errorf("%+v", p)
	}
	o.Keep = 0
	if p := prune(t, s, o); state(t, s, keyOf("index of new")) != Absent {
		t.Errorf("%+v", p)
	}
}

// Partials go after a day without a change, and at once when nobody can need them.
func TestPrunePartials(t *testing.T) {
	s := open(t)
	key := partialOf(t, s, "unfinished")
	o := PruneOptions{Keep: -1, Now: time.Now().Add(23 * time.Hour)}
	if p := prune(t, s, o); p.Partials != 0 {
		t.Errorf("after 23 hours: %+v", p)
	}
	claim := seize(t, s, key)
	o.Now = o.Now.Add(2 * time.Hour)
	if p := prune(t, s, o); p.Partials != 0 || len(p.Held) != 1 {
		t.Errorf("while somebody downloads: %+v", p)
	}
	must(t, claim.Release())
	if p := prune(t, s, o); p.Partials != 1 || p.Freed == 0 {
		t.Errorf("after 25 hours: %+v", p)
	}
	partialOf(t, s, "unfinished")
	if p := prune(t, s, all()); p.Partials != 1 {
		t.Errorf("all: %+v", p)
	}
	add(t, s, "base", "bytes")
	claim = seize(t, s, keyOf("index of base"))
	_, err := claim.Archive()
	must(t, errors.Join(err, claim.Release()))
	if p := prune(t, s, PruneOptions{Keep: -1, Now: time.Now()}); p.Partials != 1 {
		t.Errorf("of a complete object: %+v", p)
	}
}

// A wrong clock does not keep a partial for ever.
func TestPrunePartialsOfTheFuture(t *testing.T) {
	s := open(t)
	partialOf(t, s, "unfinished")
	o := PruneOptions{Keep: -1, Now: time.Now().Add(-23 * time.Hour)}
	if p := prune(t, s, o); p.Partials != 0 {
		t.Errorf("23 hours ahead: %+v", p)
	}
	o.Now = o.Now.Add(-2 * time.Hour)
	if p := prune(t, s, o); p.Partials != 1 {
		t.Errorf("25 hours ahead: %+v", p)
	}
}

// What a current manifest names stays, unless everything is to go: loaded and not
// shown yet, under the name of an older release, or half downloaded.
func TestPruneSparesWhatCurrentManifestsName(t *testing.T) {
	s := open(t)
	old, other := release(t, s, "1"), release(t, s, "2")
	loaded, unfinished := add(t, s, "loaded", "bytes"), partialOf(t, s, "unfinished")
	o := PruneOptions{
		CurrentKeys: []string{old.Files[0].Key, old.Files[1].Key, loaded, unfinished},
		Keep:        -1, Now: time.Now().Add(48 * time.Hour),
	}
	if p := prune(t, s, o); !slices.Equal(p.Images, []string{other.Name()}) || p.Objects != 1 || p.Partials != 0 {
		t.Errorf("%+v", p)
	}
	if !s.isShown(old) || s.look(loaded).State != Ready {
		t.Error("what is current is gone")
	}
	o.All = true
	if p := prune(t, s, o); len(p.Images) != 1 || p.Objects != 3 || p.Partials != 1 {
		t.Errorf("all: %+v", p)
	}
}

// A file that has a name outside the store does not make room.
func TestFreedBytesOfOutsideLinks(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", strings.Repeat("x", 100_000))
	must(t, os.Link(s.look(key).Path, filepath.Join(s.home, "mine")))
	if p := prune(t, s, all()); p.Objects != 1 || p.Freed > 50_000 {
		t.Errorf("%+v", p)
	}
	if info, err := os.Stat(filepath.Join(s.home, "mine")); err != nil || info.Size() != 100_000 {
		t.Errorf("the user's own file: %v", err)
	}
}

// Whatever a newer version has made stays, and that is said.
func TestPruneSparesNewerVersions(t *testing.T) {
	s := open(t)
	recorded, shown := add(t, s, "recorded", "bytes"), add(t, s, "shown", "bytes")
	must(t, os.WriteFile(filepath.Join(s.folder(recorded), recordFile), []byte(`{"schema":2,"new":[]}`), 0o644))
	newer := filepath.Join(s.images, "3", "pi-amd64-qemu")
	must(t, os.MkdirAll(newer, 0o755))
	must(t, os.WriteFile(filepath.Join(newer, viewFile), []byte(`{"schema":9,"layout":{}}`), 0o644))
	must(t, os.Link(s.look(shown).Path, filepath.Join(newer, "disk")))
	unknown := []string{filepath.Join(s.objects, "new-kind"), filepath.Join(s.partials, "new-kind"), filepath.Join(s.tmp, "new-kind")}
	for _, path := range unknown {
		must(t, os.Mkdir(path, 0o755))
	}
	p := prune(t, s, all())
	if p.Objects != 0 || len(p.Images) != 0 || len(p.Held) != 2 {
		t.Errorf("%+v", p)
	}
	for _, path := range append(unknown, newer, s.folder(recorded), s.folder(shown)) {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	if got := state(t, s, recorded); got != Foreign {
		t.Errorf("the newer version's object is %s", got)
	}
	if _, _, err := s.Claim(t.Context(), recorded, nil); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("claimed: %v", err)
	}
	if objects, err := s.Objects(t.Context()); err != nil || len(objects) != 2 {
		t.Errorf("%v, %v", objects, err)
	}
}

// A folder that is no view of any version stays, and so does what it links to,
// unless everything is to go.
func TestPruneAndStrangeFolders(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	mine := filepath.Join(s.images, "mine", "backup")
	must(t, os.MkdirAll(mine, 0o755))
	must(t, os.Link(s.look(key).Path, filepath.Join(mine, "copy")))
	if p := prune(t, s, PruneOptions{Keep: -1, Now: time.Now()}); p.Objects != 0 || len(p.Held) != 1 {
		t.Errorf("%+v", p)
	}
	if p := prune(t, s, all()); p.Objects != 1 {
		t.Errorf("%+v", p)
	}
	if data, err := os.ReadFile(filepath.Join(mine, "copy")); err != nil || string(data) != "bytes" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestRemoveImages(t *testing.T) {
	s := open(t)
	old, current := release(t, s, "1"), release(t, s, "2")
	images, err := s.Images()
	must(t, err)
	box := holding("sandbox one", old.Files[0].Key, old.Files[1].Key)
	_, err = s.Remove(t.Context(), images[:1], box, false)
	if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "sandbox one") || !s.isShown(old) {
		t.Errorf("in use: %v", err)
	}
	dry, err := s.Remove(t.Context(), images[:1], nil, true)
	must(t, err)
	if !s.isShown(old) {
		t.Error("a dry run removed it")
	}
	p, err := s.Remove(t.Context(), images[:1], holding("sandbox two", current.Files[0].Key, current.Files[1].Key), false)
	must(t, err)
	if p.Objects != 1 || p.Freed != dry.Freed || s.look(old.Files[1].Key).State != Absent || !s.isShown(current) {
		t.Errorf("%+v, dry %+v", p, dry)
	}
	if _, err := s.Remove(t.Context(), images[:1], nil, false); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("twice: %v", err)
	}
	p, err = s.Remove(t.Context(), images[1:], holding("sandbox two", current.Files[0].Key), false)
	must(t, err)
	if p.Objects != 1 || len(p.Held) != 1 || p.Held[0].By != "sandbox two" {
		t.Errorf("%+v", p)
	}
}

// Several at once: nothing is counted twice, and all succeed.
func TestPrunesAtOnce(t *testing.T) {
	s := openInMemory(t)
	release(t, s, "1")
	want := prune(t, s, PruneOptions{All: true, Keep: -1, Now: time.Now(), DryRun: true}).Freed
	var group sync.WaitGroup
	var mu sync.Mutex
	var freed int64
	for range 8 {
		group.Go(func() {
			p, err := s.Prune(t.Context(), all())
			mu.Lock()
			defer mu.Unlock()
			freed += p.Freed
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if freed != want {
		t.Errorf("together they freed %d, there were %d", freed, want)
	}
}
