package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// machine drives a store and a model of it side by side.
type machine struct {
	t *testing.T
	s *Store

	objects  map[int]State     // absent is not in it
	partials map[int]time.Time // when changed last
	views    map[int]bool      // of the images below
	leases   []modelLease      // living
	boxes    map[string][]int  // records of sandboxes
	used     map[int]time.Time // last use of objects
	foreign  string            // a file of another version, which must stay
	now      time.Time         // moves on by hours
	claims   map[int]*Claim    // of processes that are at work
	images   []View            // what can be shown
	contents map[int]string    // of the objects
}

// modelLease is a lease and its objects.
type modelLease struct {
	lease   *Lease
	objects []int
}

const modelObjects = 5

func nameOfObject(i int) string { return fmt.Sprintf("asset%d", i) }
func keyOfObject(i int) string  { return keyOf("index of " + nameOfObject(i)) }

// TestModel lets downloads, launches, crashes, prunes and removals happen in any
// order, and compares the store with what it should be after each.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(t)
		rt.Repeat(map[string]func(*rapid.T){
			"":          func(*rapid.T) { m.check(rt) },
			"commit":    func(rt *rapid.T) { m.commit(rt, anObject(rt)) },
			"interrupt": func(rt *rapid.T) { m.interrupt(rt, anObject(rt)) },
			"begin":     func(rt *rapid.T) { m.begin(rt, anObject(rt)) },
			"finish":    m.finish,
			"touch":     func(rt *rapid.T) { m.touch(rt, anObject(rt)) },
			"show":      m.show,
			"lease":     m.lease,
			"release":   m.release,
			"box":       m.box,
			"unbox":     m.unbox,
			"die":       m.die,
			"litter":    m.litter,
			"wait": func(rt *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 30).Draw(rt, "hours")) * time.Hour)
			},
			"prune":        m.prune,
			"remove":       m.remove,
			"sweep":        m.sweep,
			"drop":         func(rt *rapid.T) { m.drop(rt, anObject(rt)) },
			"keep archive": func(rt *rapid.T) { m.archive(rt, anObject(rt)) },
		})
		m.close(rt)
	})
}

func anObject(rt *rapid.T) int { return rapid.IntRange(0, modelObjects-1).Draw(rt, "object") }

func newMachine(t *testing.T) *machine {
	m := &machine{
		t: t, s: openInMemory(t), objects: map[int]State{}, partials: map[int]time.Time{}, views: map[int]bool{},
		boxes: map[string][]int{}, used: map[int]time.Time{}, claims: map[int]*Claim{},
		contents: map[int]string{}, now: time.Now().Add(time.Hour),
	}
	m.s.now = func() time.Time { return m.now }
	for i := range modelObjects {
		m.contents[i] = string(make([]byte, 5000*(i+1)))
	}
	for i, keys := range [][]int{{0, 1}, {0, 2}, {0, 1, 3}, {4}} {
		v := View{Release: fmt.Sprint(1 + i%2), Preset: fmt.Sprint("p", i/2), Arch: "amd64", VMM: "qemu"}
		for _, k := range keys {
			v.Files = append(v.Files, ViewFile{nameOfObject(k), keyOfObject(k), keyOf("archive " + nameOfObject(k))})
		}
		m.images = append(m.images, v)
	}
	m.foreign = filepath.Join(m.s.tmp, "of-another-version")
	must(t, os.WriteFile(m.foreign, nil, 0o644))
	return m
}

// commit is a whole download, or the verification of a touched object.
func (m *machine) commit(rt *rapid.T, i int) {
	if m.claims[i] != nil {
		return
	}
	name := nameOfObject(i)
	claim, ready, err := m.s.Claim(m.t.Context(), keyOfObject(i), nil)
	check(rt, err)
	if ready != (m.objects[i] == Ready) {
		rt.Fatalf("object %d is %s, the claim says ready: %v", i, m.objects[i], ready)
	}
	if ready {
		return
	}
	if m.objects[i] == Doubtful && rapid.Bool().Draw(rt, "verify") {
		file, identity, err := claim.Open()
		check(rt, err)
		_, err = claim.Settle(m.t.Context(), origin(name, len(m.contents[i])), identity)
		check(rt, errors.Join(err, file.Close(), claim.Release()))
		m.objects[i] = Ready
		return
	}
	m.fill(rt, i, claim)
	m.adopt(rt, i, claim)
}

func (m *machine) fill(rt *rapid.T, i int, claim *Claim) {
	file, err := claim.Partial()
	check(rt, err)
	_, err = file.WriteAt([]byte(m.contents[i]), 0)
	check(rt, err)
	m.partials[i] = m.now
	m.age(rt, i)
}

func (m *machine) adopt(rt *rapid.T, i int, claim *Claim) {
	_, err := claim.Commit(m.t.Context(), origin(nameOfObject(i), len(m.contents[i])), []byte("index of "+nameOfObject(i)))
	check(rt, errors.Join(err, claim.Release()))
	m.objects[i] = Ready
	delete(m.partials, i)
	m.use(rt, i)
}

// use sets the time of an object to the model's.
func (m *machine) use(rt *rapid.T, i int) {
	m.used[i] = m.now
	check(rt, os.Chtimes(m.s.folder(keyOfObject(i)), m.now, m.now))
}

// age sets the times of a partial to the model's.
func (m *machine) age(rt *rapid.T, i int) {
	dir := filepath.Join(m.s.partials, keyOfObject(i))
	entries, err := os.ReadDir(dir)
	check(rt, err)
	for _, entry := range entries {
		check(rt, os.Chtimes(filepath.Join(dir, entry.Name()), m.partials[i], m.partials[i]))
	}
	check(rt, os.Chtimes(dir, m.partials[i], m.partials[i]))
}

// interrupt is a download whose process was killed: nothing is closed in order.
func (m *machine) interrupt(rt *rapid.T, i int) {
	if m.claims[i] != nil || m.objects[i] == Ready {
		return
	}
	claim, _, err := m.s.Claim(m.t.Context(), keyOfObject(i), nil)
	check(rt, err)
	m.fill(rt, i, claim)
	check(rt, errors.Join(claim.content.Close(), claim.lock.Unlock()))
}

// begin and finish are a download that other things happen during.
func (m *machine) begin(rt *rapid.T, i int) {
	if m.claims[i] != nil || m.objects[i] == Ready {
		return
	}
	claim, _, err := m.s.Claim(m.t.Context(), keyOfObject(i), nil)
	check(rt, err)
	m.claims[i] = claim
	m.fill(rt, i, claim)
}

func (m *machine) finish(rt *rapid.T) {
	for _, i := range slices.Sorted(maps.Keys(m.claims)) {
		m.adopt(rt, i, m.claims[i])
		delete(m.claims, i)
		return
	}
}

func (m *machine) touch(rt *rapid.T, i int) {
	if m.objects[i] == Ready {
		check(rt, os.Chtimes(m.s.look(keyOfObject(i)).Path, m.now, m.now))
		m.objects[i] = Doubtful
	}
}

func (m *machine) show(rt *rapid.T) {
	i := rapid.IntRange(0, len(m.images)-1).Draw(rt, "image")
	ready := true
	for _, k := range m.keysOf(i) {
		ready = ready && m.objects[k] == Ready
	}
	err := m.s.Show(m.t.Context(), m.images[i])
	if (err == nil) != (ready || m.views[i] && m.s.isShown(m.images[i])) {
		rt.Fatalf("show image %d, objects ready %v: %v", i, ready, err)
	}
	m.views[i] = m.views[i] || err == nil
}

func (m *machine) keysOf(image int) (keys []int) {
	for _, f := range m.images[image].Files {
		for i := range modelObjects {
			if keyOfObject(i) == f.Key {
				keys = append(keys, i)
			}
		}
	}
	return keys
}

func someObjects(rt *rapid.T) []int {
	return rapid.SliceOfNDistinct(rapid.IntRange(0, modelObjects-1), 1, 3, rapid.ID[int]).Draw(rt, "objects")
}

func keysOfObjects(objects []int) (keys []string) {
	for _, i := range objects {
		keys = append(keys, keyOfObject(i))
	}
	return keys
}

func (m *machine) lease(rt *rapid.T) {
	objects := someObjects(rt)
	lease, err := m.s.Lease(m.t.Context(), "launch", keysOfObjects(objects))
	check(rt, err)
	m.leases = append(m.leases, modelLease{lease, objects})
	for _, i := range objects {
		if _, here := m.objects[i]; here && m.now.Sub(m.used[i]) > touchEvery {
			m.used[i] = m.now
		}
	}
}

func (m *machine) release(rt *rapid.T) {
	if len(m.leases) > 0 {
		check(rt, m.leases[0].lease.Release())
		m.leases = m.leases[1:]
	}
}

// die ends the process of a lease.
func (m *machine) die(rt *rapid.T) {
	if len(m.leases) > 0 {
		check(rt, m.leases[0].lease.file.Close())
		m.leases = m.leases[1:]
	}
}

func (m *machine) box(rt *rapid.T) {
	m.boxes[rapid.SampledFrom([]string{"one", "two"}).Draw(rt, "name")] = someObjects(rt)
}

func (m *machine) unbox(rt *rapid.T) {
	delete(m.boxes, rapid.SampledFrom([]string{"one", "two"}).Draw(rt, "name"))
}

// litter is what killed processes leave.
func (m *machine) litter(rt *rapid.T) {
	for _, prefix := range []string{metaPrefix, binPrefix, copyPrefix, keyOfObject(anObject(rt)) + "-"} {
		dir, err := os.MkdirTemp(m.s.tmp, prefix)
		check(rt, err)
		check(rt, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 9000), 0o600))
	}
	for i := range modelObjects {
		if m.objects[i] == Ready { // a show that was killed before it made the link known
			check(rt, os.Link(m.s.look(keyOfObject(i)).Path, filepath.Join(m.mustTemp(rt), "link")))
			m.objects[i] = Doubtful
			return
		}
	}
}

func (m *machine) mustTemp(rt *rapid.T) string {
	dir, err := os.MkdirTemp(m.s.tmp, metaPrefix)
	check(rt, err)
	return dir
}

func (m *machine) sweep(rt *rapid.T) { check(rt, m.s.Sweep(m.t.Context())) }

func (m *machine) drop(rt *rapid.T, i int) {
	if m.claims[i] != nil || m.objects[i] == "" {
		return
	}
	claim, err := m.s.Seize(m.t.Context(), keyOfObject(i), nil)
	check(rt, errors.Join(err, claim.Drop(m.t.Context()), claim.Release()))
	delete(m.objects, i)
	for image := range m.images {
		if slices.Contains(m.keysOf(image), i) {
			delete(m.views, image)
		}
	}
}

func (m *machine) archive(rt *rapid.T, i int) {
	if m.claims[i] != nil || m.objects[i] == "" {
		return
	}
	claim, err := m.s.Seize(m.t.Context(), keyOfObject(i), nil)
	check(rt, err)
	file, err := claim.Archive()
	check(rt, err)
	_, err = file.Write(make([]byte, 6000))
	check(rt, errors.Join(err, claim.KeepArchive(m.t.Context()), claim.Release()))
	m.use(rt, i)
	if _, partial := m.partials[i]; partial {
		m.partials[i] = m.now
		m.age(rt, i)
	}
}

func (m *machine) holders(context.Context) ([]Holder, error) {
	var holders []Holder
	for _, name := range slices.Sorted(maps.Keys(m.boxes)) {
		holders = append(holders, Holder{"sandbox " + name, keysOfObjects(m.boxes[name])})
	}
	return holders, nil
}

// held are the sets of objects that somebody needs.
func (m *machine) held() [][]int {
	sets := slices.Collect(maps.Values(m.boxes))
	for _, l := range m.leases {
		sets = append(sets, l.objects)
	}
	return sets
}

func (m *machine) isHeld(i int) bool {
	return m.claims[i] != nil || slices.ContainsFunc(m.held(), func(set []int) bool { return slices.Contains(set, i) })
}

func (m *machine) imageIsHeld(image int) bool {
	return slices.ContainsFunc(m.held(), func(set []int) bool {
		return !slices.ContainsFunc(m.keysOf(image), func(i int) bool { return !slices.Contains(set, i) })
	})
}

func (m *machine) isShownBy(i int, images map[int]bool) bool {
	for image, shown := range images {
		if shown && slices.Contains(m.keysOf(image), i) {
			return true
		}
	}
	return false
}

func (m *machine) prune(rt *rapid.T) {
	o := PruneOptions{
		Holders: m.holders, Now: m.now, Keep: -1, All: rapid.Bool().Draw(rt, "all"), DryRun: rapid.Bool().Draw(rt, "dry run"),
		Current: rapid.SampledFrom([][]string{nil, {"1"}, {"2"}, {"1", "2"}}).Draw(rt, "current"),
	}
	if rapid.Bool().Draw(rt, "keep storage") {
		o.Keep = rapid.Int64Range(0, 100_000).Draw(rt, "keep")
	}
	usage, sizes, partials := m.usage()
	before := onDisk(rt, m.s.home)
	p, err := m.s.Prune(m.t.Context(), o)
	check(rt, err)
	gained := before - onDisk(rt, m.s.home)
	if o.DryRun {
		if gained != 0 {
			rt.Fatalf("a dry run freed %d bytes", gained)
		}
		o.DryRun = false
		again, err := m.s.Prune(m.t.Context(), o)
		check(rt, err)
		if fmt.Sprint(p) != fmt.Sprint(again) {
			rt.Fatalf("the dry run said\n%+v\nthe real one\n%+v", p, again)
		}
		gained = before - onDisk(rt, m.s.home)
	}
	if p.Freed != gained {
		rt.Fatalf("%d bytes are said to be freed, %d were: %+v", p.Freed, gained, p)
	}
	m.expectPruned(rt, o, usage, sizes, partials)
}

// usage is what objects and partials take on disk, together and each.
func (m *machine) usage() (sum int64, objects, partials map[int]int64) {
	objects, partials = map[int]int64{}, map[int]int64{}
	for i := range modelObjects {
		objects[i] = m.s.look(keyOfObject(i)).Allocated
		for _, name := range []string{contentFile, archiveFile, indexFile} {
			identity, _ := identify(filepath.Join(m.s.partials, keyOfObject(i), name))
			partials[i] += identity.Blocks * 512
		}
		sum += objects[i] + partials[i]
	}
	return sum, objects, partials
}

// expectPruned does to the model what a prune should do.
func (m *machine) expectPruned(rt *rapid.T, o PruneOptions, usage int64, sizes, partials map[int]int64) {
	stay := map[int]bool{}
	for image, shown := range m.views {
		current := slices.Contains(o.Current, m.images[image].Release)
		stay[image] = shown && (!o.All && current || m.imageIsHeld(image))
	}
	for i, changed := range m.partials {
		needless := m.objects[i] == Ready && m.claims[i] == nil
		if needless || !m.isHeld(i) && (o.All || m.now.Sub(changed) > partialAge) {
			usage -= partials[i]
			delete(m.partials, i)
		}
	}
	var mayGo []int
	for i := range m.objects {
		if !m.isHeld(i) && !m.isShownBy(i, stay) {
			mayGo = append(mayGo, i)
		}
	}
	slices.SortFunc(mayGo, func(a, b int) int {
		return cmp.Or(m.used[a].Compare(m.used[b]), cmp.Compare(keyOfObject(a), keyOfObject(b)))
	})
	for _, i := range mayGo {
		if o.Keep >= 0 && usage <= o.Keep {
			break
		}
		usage -= sizes[i]
		delete(m.objects, i)
	}
	for image := range m.views {
		if stay[image] || !m.views[image] {
			continue
		}
		whole := true
		for _, i := range m.keysOf(image) {
			_, here := m.objects[i]
			whole = whole && here
		}
		if o.Keep < 0 || !whole {
			delete(m.views, image)
		}
	}
}

func (m *machine) remove(rt *rapid.T) {
	i := rapid.IntRange(0, len(m.images)-1).Draw(rt, "image")
	before := onDisk(rt, m.s.home)
	p, err := m.s.Remove(m.t.Context(), []Image{{View: m.images[i]}}, m.holders, false)
	if refused := !m.views[i] || m.imageIsHeld(i); (err != nil) != refused {
		rt.Fatalf("image %d, shown %v, held %v: %v", i, m.views[i], m.imageIsHeld(i), err)
	}
	if gained := before - onDisk(rt, m.s.home); p.Freed != gained {
		rt.Fatalf("%d bytes are said to be freed, %d were", p.Freed, gained)
	}
	if err != nil {
		return
	}
	delete(m.views, i)
	for _, k := range m.keysOf(i) {
		if !m.isHeld(k) && !m.isShownBy(k, m.views) {
			delete(m.objects, k)
		}
	}
}

// check compares everything that can be seen with the model.
func (m *machine) check(rt *rapid.T) {
	for i := range modelObjects {
		object, err := m.s.Lookup(m.t.Context(), keyOfObject(i))
		check(rt, err)
		if want, here := m.objects[i]; object.State != want && (here || object.State != Absent) {
			rt.Fatalf("object %d is %s, not %q", i, object.State, want)
		}
		_, err = os.Lstat(filepath.Join(m.s.partials, keyOfObject(i)))
		if _, here := m.partials[i]; here != (err == nil) {
			rt.Fatalf("partial %d is here: %v, should be %v", i, err == nil, here)
		}
	}
	shown := 0
	for image, is := range m.views {
		if is {
			shown++
			if _, err := m.s.readView(m.s.Folder(m.images[image])); err != nil {
				rt.Fatalf("image %d: %v", image, err)
			}
		}
	}
	if n := len(m.s.views()); n != shown {
		rt.Fatalf("%d images are shown, not %d", n, shown)
	}
	if _, err := os.Lstat(m.foreign); err != nil {
		rt.Fatal("a file of another version is gone")
	}
}

// close ends everything, and finds nothing left that nobody needs.
func (m *machine) close(rt *rapid.T) {
	for i, claim := range m.claims {
		check(rt, claim.Release())
		delete(m.claims, i)
	}
	for _, l := range m.leases {
		check(rt, l.lease.Release())
	}
	_, err := m.s.Prune(m.t.Context(), PruneOptions{All: true, Keep: -1, Now: m.now})
	check(rt, err)
	for dir, want := range map[string]int{m.s.tmp: 1, m.s.objects: 0, m.s.partials: 0, m.s.leases: 0, m.s.images: 0} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			rt.Fatalf("left in %s: %v, %v", dir, entries, err)
		}
	}
	check(rt, os.RemoveAll(m.s.home))
}

// onDisk is what a folder takes on disk, each inode once.
func onDisk(rt *rapid.T, dir string) int64 {
	var sum int64
	seen := map[uint64]bool{}
	check(rt, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err := errors.Join(err, unix.Lstat(path, &st)); err != nil {
			return err
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			sum += st.Blocks * 512
		}
		return nil
	}))
	return sum
}

func check(rt *rapid.T, err error) {
	rt.Helper()
	if err != nil {
		rt.Fatal(err)
	}
}
