package acquire

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

// An upgrade that changes one frame in twenty downloads those and no others.
func TestUpgradeFetchesWhatChanged(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	w.mustLaunch(t)
	next := slices.Clone(w.want["base"])
	for _, frame := range []int{3, 40, 41, 78} {
		catalogue.Change(next, frame, 99)
	}
	w.publish(t, "1.1.0", next)
	w.mustLaunch(t)
	base := w.asset("base")
	if sent := w.server.Sent(base.Archive.File); sent > base.Archive.Size*7/100 {
		t.Errorf("%d of %d bytes were sent", sent, base.Archive.Size)
	}
	for _, name := range []string{"kernel", "modules", "claude-code"} {
		if sent := w.server.Sent(w.asset(name).Archive.File); sent > w.asset(name).Archive.Size {
			t.Errorf("%s was fetched again", name)
		}
	}
}

// Frames that lie elsewhere under wrong names, moved or altered, are taken by
// what they hold, never by where they are.
func TestAlteredFramesAreNotReused(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image := w.mustLaunch(t)
	must(t, os.Chmod(image.Layers[0].Path, 0o644))
	file, err := os.OpenFile(image.Layers[0].Path, os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("evil"), 5*catalogue.SmallFrame+9000)
	must(t, err)
	must(t, file.Close())
	next := slices.Clone(w.want["base"])
	copy(next[20*catalogue.SmallFrame:], next[4*catalogue.SmallFrame:5*catalogue.SmallFrame]) // moved
	catalogue.Change(next, 60, 7)
	w.publish(t, "1.1.0", next)
	w.mustLaunch(t)
	asked := w.server.Log(w.asset("base").Archive.File)
	index := w.index(t, "base")
	if !covers(asked, index.Frames[5].Offset) || !covers(asked, index.Frames[60].Offset) || covers(asked, index.Frames[20].Offset) {
		t.Errorf("asked for %v", asked)
	}
}

// covers is whether any of the requests asks for a byte.
func covers(log []faulty.Request, at int64) bool {
	return slices.ContainsFunc(log, func(r faulty.Request) bool { return r.Span.From <= at && at < r.Span.To })
}

// A damaged file is repaired: only its bad frames are fetched, the rest is copied
// from it into a new file, and what was there is never written to.
func TestRepairFetchesBadFrames(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image := w.mustLaunch(t)
	old := damage(t, image.Layers[0].Path, 5, 50, 7) // 7 is an empty one
	defer old.Close()
	before, err := os.ReadFile(image.Layers[0].Path)
	must(t, err)
	asked := len(w.server.Log(w.asset("base").Archive.File))
	w.mustLaunch(t)
	index := w.index(t, "base")
	var bytes int64
	for _, r := range w.server.Log(w.asset("base").Archive.File)[asked:] {
		bytes += r.Span.To - r.Span.From
	}
	if want := index.Frames[5].Length + index.Frames[50].Length; bytes != want {
		t.Errorf("asked for %d bytes, the bad frames have %d", bytes, want)
	}
	if !strings.Contains(w.events.text(), "3 of 80 frames were wrong and were replaced") {
		t.Errorf("said: %s", w.events.text())
	}
	after := make([]byte, len(before))
	if _, err := old.ReadAt(after, 0); err != nil || !slices.Equal(before, after) {
		t.Errorf("the old file was written to: %v", err)
	}
}

// No work on a file is silent: each begins and ends with an event.
func TestPreparingIsTold(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image := w.mustLaunch(t)
	damage(t, image.Layers[0].Path, 5).Close()
	w.server.Set(w.asset("base").Archive.File, faulty.Fault{Flip: w.index(t, "base").Frames[5].Offset + 9})
	w.expect(t, fault.Trust, "digest mismatch") // leaves a partial
	w.server.Set(w.asset("base").Archive.File)
	w.mustLaunch(t)
	count := map[string]int{}
	for _, e := range w.events.all {
		count[fmt.Sprint(e.Kind, " ", e.Stage, " ", e.Object)]++
	}
	for what, want := range map[string]int{"resolve index of base": 1, "verify base": 3} { // twice the object, once the partial
		if count["start "+what] != want || count["done "+what] != want {
			t.Errorf("%s: %v", what, count)
		}
	}
}

// What is here of a damaged file is counted when its frames were found right, and
// what became of it is said as it is.
func TestDamagedFileIsCountedRight(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image := w.mustLaunch(t)
	must(t, os.Chmod(image.Layers[0].Path, 0o644))
	must(t, os.Truncate(image.Layers[0].Path, 4096))
	w.events.all = nil
	w.mustLaunch(t)
	var empty int64
	for i, frame := range w.index(t, "base").Frames {
		if frame.Zero {
			empty += w.index(t, "base").Frames[i].Length
		}
	}
	for _, e := range w.events.all {
		if e.Kind == event.Start && e.Stage == event.Fetch && e.Bytes != empty {
			t.Errorf("%d bytes are said to be here, %d are", e.Bytes, empty)
		}
	}
	if !strings.Contains(w.events.text(), "made anew, with 0 of 80 frames") {
		t.Errorf("said: %s", w.events.text())
	}
	damage(t, w.mustLaunch(t).Layers[0].Path, 5).Close()
	st, err := store.Open(w.home)
	must(t, err)
	must(t, os.Remove(filepath.Join(w.made.Dir, w.asset("base").Archive.File)))
	places := impatient(0).Mirrors([]string{image.Address}, w.events)
	err = w.acquirer(st, places).Check(t.Context(), image)
	if err == nil || !strings.Contains(fault.HintOf(err), "image pull") || !strings.Contains(w.events.text(), "1 of its frames are wrong") {
		t.Errorf("nobody can repair it: %v (%s)\n%s", err, fault.HintOf(err), w.events.text())
	}
}

// damage changes a byte of some frames of a stored file, and keeps it open.
func damage(t *testing.T, path string, frames ...int64) *os.File {
	t.Helper()
	must(t, os.Chmod(path, 0o644))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	for _, frame := range frames {
		_, err = file.WriteAt([]byte("evil"), frame*catalogue.SmallFrame+10_000)
		must(t, err)
	}
	return file
}

// A damaged file cannot be repaired by wrong bytes, and stays what it is: not to
// be booted.
func TestRepairTakesNoWrongBytes(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image := w.mustLaunch(t)
	damage(t, image.Layers[0].Path, 5).Close()
	w.server.Set(w.asset("base").Archive.File, faulty.Fault{Flip: w.index(t, "base").Frames[5].Offset + 9})
	w.expect(t, fault.Trust, "digest mismatch")
	st, err := store.Open(w.home)
	must(t, err)
	if object, err := st.Lookup(t.Context(), w.asset("base").Index.SHA256); err != nil || object.State != store.Doubtful {
		t.Errorf("after the failure: %v, %v", object.State, err)
	}
	w.server.Set(w.asset("base").Archive.File)
	w.mustLaunch(t)
}

// A sandbox that starts again repairs its own files from the catalogue that its
// record names, without a manifest.
func TestCheckRepairs(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image := w.mustLaunch(t)
	if image.Address != w.url+"/manifest.json" {
		t.Errorf("address %q", image.Address)
	}
	must(t, os.Remove(w.made.Address))
	st, err := store.Open(w.home)
	must(t, err)
	damage(t, image.Layers[0].Path, 1, 9).Close()
	must(t, os.Remove(sibling(image.Kernel, "index.json")))
	touch(t, image.Kernel)
	places := impatient(0).Mirrors([]string{image.Address}, w.events)
	must(t, w.acquirer(st, places).Check(t.Context(), image))
	w.checkBytes(t, image)
	if !strings.Contains(w.events.text(), "2 of 80 frames were wrong") {
		t.Errorf("said: %s", w.events.text())
	}
	damage(t, image.Layers[0].Path, 1).Close()
	err = w.acquirer(st, nil).Check(t.Context(), image)
	if fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), image.Layers[0].Path) || !strings.Contains(fault.HintOf(err), image.Address) {
		t.Errorf("without places: %v (%s)", err, fault.HintOf(err))
	}
}

// Verify finds what no identity shows, says where it is, and lets the next launch
// repair it.
func TestVerifyReadsEverything(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	w.mustLaunch(t)
	st, err := store.Open(w.home)
	must(t, err)
	a := w.acquirer(st, nil)
	w.verify(t, a, map[string]string{})

	image := w.mustLaunch(t)
	damage(t, image.Layers[0].Path, 2, 33).Close()
	pretend(t, st, w.asset("base").Index.SHA256) // a disk that forgets
	if object, err := st.Lookup(t.Context(), w.asset("base").Index.SHA256); err != nil || object.State != store.Ready {
		t.Fatalf("the damage shows: %v, %v", object.State, err)
	}
	mark := filepath.Join(w.home, "images", "1.0.0", "claude-code-amd64-qemu", "kernel.from-sha256")
	must(t, os.Chmod(mark, 0o644))
	must(t, os.WriteFile(mark, []byte("0000\n"), 0o444))
	reports := w.verify(t, a, map[string]string{"base.ext4": "2 of 80 frames are wrong", "kernel": "from-sha256"})
	for _, r := range reports {
		if r.Name == "base.ext4" && (r.Sound || !slices.Equal(r.Bad, []int{2, 33})) {
			t.Errorf("bad frames %v", r.Bad)
		}
	}
	w.mustLaunch(t)
	w.verify(t, a, map[string]string{})
}

func (w *world) verify(t *testing.T, a *Acquirer, want map[string]string) []Report {
	t.Helper()
	images, err := a.store.Images()
	must(t, err)
	reports, err := a.Verify(t.Context(), images)
	must(t, err)
	if len(reports) != 4 {
		t.Errorf("%d reports", len(reports))
	}
	for _, r := range reports {
		if (r.Fault == "") != (want[r.Name] == "") || !strings.Contains(r.Fault, want[r.Name]) {
			t.Errorf("%s: %q, want %q", r.Name, r.Fault, want[r.Name])
		}
	}
	return reports
}

// pretend makes the store believe that an object is what was verified.
func pretend(t *testing.T, st *store.Store, key string) {
	t.Helper()
	claim, err := st.Seize(t.Context(), key, nil)
	must(t, err)
	object, err := st.Lookup(t.Context(), key)
	must(t, err)
	file, identity, err := claim.Open()
	must(t, err)
	must(t, file.Close())
	_, err = claim.Settle(t.Context(), object.Origin, identity)
	must(t, err)
	must(t, claim.Release())
}

// The archive is kept when that is asked for: the published bytes, for an image
// that is new and for one that was here without, and after an interruption.
func TestKeepArchive(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"new", "here", "interrupted"} {
		t.Run(how, func(t *testing.T) {
			w := newSmallWorld(t)
			base := w.asset("base")
			switch how {
			case "here":
				w.mustLaunch(t)
			case "interrupted":
				met := faulty.Fault{Stop: faulty.Cut, Within: faulty.Span{From: w.index(t, "base").Frames[40].Offset}}
				w.server.Set(base.Archive.File, met)
				if _, err := w.launchWith(t.Context(), Options{KeepArchive: true}); err == nil {
					t.Fatal("not interrupted")
				}
				w.server.Set(base.Archive.File)
			}
			image, err := w.launchWith(t.Context(), Options{KeepArchive: true})
			must(t, err)
			w.checkBytes(t, image)
			want, err := os.ReadFile(filepath.Join(w.made.Dir, base.Archive.File))
			must(t, err)
			for _, path := range []string{
				sibling(image.Layers[0].Path, "archive.zst"),
				filepath.Join(w.home, "images", "1.0.0", "claude-code-amd64-qemu", "base.ext4.zst"),
			} {
				if got, err := os.ReadFile(path); err != nil || !slices.Equal(got, want) {
					t.Errorf("%s: not what was published: %v", path, err)
				}
			}
			asked := w.server.Requests(base.Archive.File)
			if _, err := w.launchWith(t.Context(), Options{KeepArchive: true}); err != nil || w.server.Requests(base.Archive.File) != asked {
				t.Errorf("fetched again: %v", err)
			}
			if left := append(w.temps(t), w.partials(t)...); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A kept archive that is wrong is removed, and fetched when it is asked for again.
// The file that boots has nothing to do with it.
func TestWrongKeptArchive(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image, err := w.launchWith(t.Context(), Options{KeepArchive: true})
	must(t, err)
	archives := []string{
		sibling(image.Layers[0].Path, "archive.zst"),
		filepath.Join(w.home, "images", "1.0.0", "claude-code-amd64-qemu", "base.ext4.zst"),
	}
	rewrite(t, archives[0])
	st, err := store.Open(w.home)
	must(t, err)
	a := w.acquirer(st, nil)
	for _, r := range w.verify(t, a, map[string]string{"base.ext4": "is removed"}) {
		if !r.Sound {
			t.Errorf("%s is said to be wrong", r.Name)
		}
	}
	for _, path := range archives {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s stays", path)
		}
	}
	w.verify(t, a, map[string]string{})
	_, err = w.launchWith(t.Context(), Options{KeepArchive: true})
	must(t, err)
	w.verify(t, a, map[string]string{})
	if _, err := os.Lstat(archives[1]); err != nil {
		t.Error(err)
	}
}

// An image that is replaced or removed while it is looked at is no damage; one that
// is there and shows something else is.
func TestVerifyWhileImagesMove(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	w.mustLaunch(t)
	st, err := store.Open(w.home)
	must(t, err)
	a := w.acquirer(st, nil)
	images, err := st.Images()
	must(t, err)
	image := images[0]
	content := st.Home() + "/store/objects/" + image.Files[0].Key + "/content"
	problem := func() string {
		text, err := a.shown(t.Context(), image.Path, image.Files[0], content)
		must(t, err)
		return text
	}
	shown := filepath.Join(image.Path, image.Files[0].Name)
	must(t, os.Remove(shown))
	if problem() == "" {
		t.Error("a file of the image is gone, and nobody says so")
	}
	for _, f := range image.Files { // one each: the objects stay, no lease holds the image
		lease, err := st.Lease(t.Context(), f.Name, []string{f.Key})
		must(t, err)
		defer lease.Release()
	}
	w.mustLaunch(t) // the lost link made the object doubtful
	moving := make(chan error)
	go func() {
		var err error
		for i := 0; i < 40 && err == nil; i++ {
			_, err = st.Remove(t.Context(), images[:1], nil, false)
			err = errors.Join(err, st.Show(t.Context(), image.View))
		}
		moving <- err
	}()
	for {
		select {
		case err := <-moving:
			must(t, err)
			return
		default:
			if text := problem(); text != "" {
				t.Error(text)
			}
		}
	}
}

// A wrong mirror is named, and the next goes on where it was found out.
func TestWrongMirror(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		w := newSmallWorld(t)
		good := faulty.New(w.made.Dir)
		url, stop := good.Listen()
		defer stop()
		w.mirrors = []string{url + "/manifest.json"}
		base, index := w.asset("base"), w.index(t, "base")
		w.server.Set(base.Archive.File, faulty.Fault{Flip: index.Frames[60].Offset + 5, NoRanges: plain})
		w.mustLaunch(t)
		text := w.events.text()
		if strings.Count(text, "served wrong bytes") != 1 || !strings.Contains(text, w.url) {
			t.Errorf("plain=%v: said: %s", plain, text)
		}
		var again int64
		for _, r := range good.Log(base.Archive.File) {
			again += r.Span.To - r.Span.From
		}
		if plain && again > base.Archive.Size/2 { // frames before the wrong one may still have been under way
			t.Errorf("the mirror was asked for %d of %d bytes", again, base.Archive.Size)
		}
	}
}

// The first place is dead, or breaks in the middle, or has nothing, or an index
// of its own: the mirror has everything.
func TestDeadPrimary(t *testing.T) {
	t.Parallel()
	for name, met := range map[string]func(w *world) (string, faulty.Fault){
		"gone":  func(w *world) (string, faulty.Fault) { return w.asset("base").Archive.File, faulty.Fault{Status: 404} },
		"index": func(w *world) (string, faulty.Fault) { return w.asset("base").Index.File, faulty.Fault{Flip: 100} },
		"hangs": func(w *world) (string, faulty.Fault) {
			return w.asset("base").Archive.File, faulty.Fault{Stop: faulty.Hang, After: 10_000}
		},
		"other": func(w *world) (string, faulty.Fault) {
			return w.asset("base").Archive.File, faulty.Fault{Body: make([]byte, 100)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSmallWorld(t)
			mirror := faulty.New(w.made.Dir)
			url, stop := mirror.Listen()
			defer stop()
			w.mirrors = []string{url + "/manifest.json"}
			file, f := met(w)
			w.server.Set(file, f)
			w.mustLaunch(t)
		})
	}
}

// What several connections bring at a time is written as it comes.
func TestRangesInParallel(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	base := w.asset("base")
	hang := faulty.Fault{Stop: faulty.Pause, After: 10_000}
	w.server.Set(base.Archive.File, hang)
	done := make(chan error)
	go func() { _, err := w.launch(t.Context()); done <- err }()
	await(t, "four requests", func() bool { return w.server.Requests(base.Archive.File) == lines })
	w.server.Set(base.Archive.File)
	for range lines {
		w.server.Tick()
	}
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(30 * time.Second):
		t.Fatal("never ended")
	}
	for _, r := range w.server.Log(base.Archive.File) {
		for i, frame := range w.index(t, "base").Frames {
			if frame.Zero && r.Span.From <= frame.Offset && frame.Offset < r.Span.To {
				t.Errorf("the empty frame %d was asked for", i)
			}
		}
	}
}
