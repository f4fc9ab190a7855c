package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "home with space"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyOf(index string) string {
	sum := sha256.Sum256([]byte(index))
	return hex.EncodeToString(sum[:])
}

func origin(name string, size int) Origin {
	return Origin{
		Name:    name,
		Archive: manifest.Digest{SHA256: keyOf("archive " + name), Size: 10},
		Content: manifest.Digest{SHA256: keyOf("content " + name), Size: int64(size)},
	}
}

// add puts an object in the store and returns its key.
func add(t testing.TB, s *Store, name, content string) string {
	t.Helper()
	index := "index of " + name
	claim, ready, err := s.Claim(t.Context(), keyOf(index), nil)
	must(t, err)
	if ready {
		t.Fatalf("%s is here already", name)
	}
	file, err := claim.Partial()
	must(t, err)
	must(t, file.Truncate(0))
	_, err = file.WriteAt([]byte(content), 0)
	must(t, err)
	object, err := claim.Commit(t.Context(), origin(name, len(content)), []byte(index))
	must(t, err)
	must(t, claim.Release())
	if object.State != Ready {
		t.Fatalf("committed object is %s", object.State)
	}
	return object.Key
}

func state(t testing.TB, s *Store, key string) State {
	t.Helper()
	object, err := s.Lookup(t.Context(), key)
	must(t, err)
	return object.State
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommitAndLookup(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	object, err := s.Lookup(t.Context(), key)
	must(t, err)
	if d := cmp.Diff(origin("base", 5), object.Origin); d != "" {
		t.Error(d)
	}
	data, err := os.ReadFile(object.Path)
	if err != nil || string(data) != "bytes" {
		t.Errorf("%q, %v", data, err)
	}
	if raw, err := s.Index(key); err != nil || string(raw) != "index of base" {
		t.Errorf("%q, %v", raw, err)
	}
	if got := state(t, s, keyOf("other")); got != Absent {
		t.Errorf("unknown key: %s", got)
	}
	for _, key := range []string{"", "..", "../../x", strings.Repeat("A", 64)} {
		if _, err := s.Lookup(t.Context(), key); err == nil {
			t.Errorf("Lookup(%q) was accepted", key)
		}
		if _, err := s.Seize(t.Context(), key, nil); err == nil {
			t.Errorf("Claim(%q) was accepted", key)
		}
	}
}

// Anything that happened to a file makes it doubtful; Settle makes it known
// again only if nothing happened since Open.
func TestTouchedIsDoubtfulUntilSettled(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	path := s.look(key).Path
	must(t, os.Chtimes(path, time.Now(), time.Now()))
	if got := state(t, s, key); got != Doubtful {
		t.Fatalf("touched: %s", got)
	}
	claim, err := s.Seize(t.Context(), key, nil)
	must(t, err)
	defer claim.Release()
	file, identity, err := claim.Open()
	must(t, err)
	must(t, file.Close())
	must(t, os.Chmod(path, 0o600))
	if _, err := claim.Settle(t.Context(), origin("base", 5), identity); err == nil {
		t.Error("settled although it was touched while it was verified")
	}
	file, identity, err = claim.Open()
	must(t, err)
	must(t, file.Close())
	object, err := claim.Settle(t.Context(), origin("base", 5), identity)
	if err != nil || object.State != Ready {
		t.Errorf("settled: %s, %v", object.State, err)
	}
	must(t, claim.Drop(t.Context()))
	if got := state(t, s, key); got != Absent {
		t.Errorf("dropped: %s", got)
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o077, 0o777 &^ 0o700} {
		old := syscall.Umask(mask) // the whole process's: no parallel tests here
		s := open(t)
		key := add(t, s, "base", "bytes")
		must(t, s.Show(t.Context(), view("base", key)))
		syscall.Umask(old)
		want := map[string]fs.FileMode{
			s.look(key).Path: 0o444, s.folder(key): 0o755, s.objects: 0o755, s.tmp: 0o755, s.images: 0o755,
			filepath.Join(s.folder(key), indexFile): 0o444, filepath.Join(s.folder(key), recordFile): 0o644,
			s.Folder(view("base", key)):                                    0o755,
			filepath.Join(s.Folder(view("base", key)), "base"):             0o444,
			filepath.Join(s.Folder(view("base", key)), "base.from-sha256"): 0o444,
		}
		for path, mode := range want {
			info, err := os.Lstat(path)
			if err != nil || info.Mode().Perm() != mode {
				t.Errorf("umask %o: %s: %v, %v, want %v", mask, path, info.Mode(), err, mode)
			}
		}
	}
}

func TestWritableFoldersAreClosedAndLinksRefused(t *testing.T) {
	s := open(t)
	must(t, os.Chmod(s.objects, 0o777))
	if _, err := Open(s.home); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(s.objects); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, dir := range []string{s.objects, s.tmp, s.locks, s.images} {
		must(t, os.RemoveAll(dir))
		must(t, os.Symlink(t.TempDir(), dir))
		if _, err := Open(s.home); fault.CodeOf(err) != fault.Storage || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s is a link: %v", dir, err)
		}
		must(t, os.Remove(dir))
	}
	_, err := Open(s.home)
	must(t, err)
	must(t, os.RemoveAll(s.objects))
	must(t, os.WriteFile(s.objects, nil, 0o600))
	if _, err := Open(s.home); fault.CodeOf(err) != fault.Storage {
		t.Errorf("a file in place of a folder: %v", err)
	}
}

func TestHomeMayBeALink(t *testing.T) {
	link := filepath.Join(t.TempDir(), "home")
	must(t, os.Symlink(t.TempDir(), link))
	s, err := Open(link)
	must(t, err)
	add(t, s, "base", "bytes")
}

// What is planted where a file or lock will be made is neither followed nor
// waited for.
func TestPlantedPaths(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o644))
	plants := map[string]func(path string) error{
		"link":          func(path string) error { return os.Symlink(victim, path) },
		"hanging link":  func(path string) error { return os.Symlink(victim+"-none", path) },
		"link to a dir": func(path string) error { return os.Symlink(filepath.Dir(victim), path) },
		"hard link":     func(path string) error { return os.Link(victim, path) },
		"fifo":          func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"file":          func(path string) error { return os.WriteFile(path, []byte("x"), 0o666) },
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			key := keyOf("index of base")
			v := view("base", key)
			must(t, plant(s.folder(key)))
			must(t, plant(filepath.Join(s.tmp, key+"-planted")))
			must(t, plant(filepath.Join(s.tmp, metaPrefix+"planted")))
			must(t, os.Mkdir(filepath.Dir(s.Folder(v)), 0o755))
			must(t, plant(s.Folder(v)))
			if got := state(t, s, key); got == Ready {
				t.Error("a planted object counts as ready")
			}
			add(t, s, "base", "bytes")
			must(t, s.Show(t.Context(), v))
			must(t, s.Sweep(t.Context()))
			info, err := os.Lstat(s.look(key).Path)
			if err != nil || !info.Mode().IsRegular() {
				t.Errorf("object: %v, %v", info.Mode(), err)
			}
			if info, err := os.Lstat(s.Folder(v)); err != nil || !info.IsDir() {
				t.Errorf("view: %v, %v", info.Mode(), err)
			}
			if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
				t.Errorf("victim: %q, %v", data, err)
			}
			if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func TestPlantedLock(t *testing.T) {
	s := open(t)
	key := keyOf("x")
	victim := filepath.Join(t.TempDir(), "none")
	must(t, os.Symlink(victim, filepath.Join(s.locks, key)))
	if _, err := s.Seize(t.Context(), key, nil); fault.CodeOf(err) != fault.Storage {
		t.Errorf("a link as lock: %v", err)
	}
	if _, err := os.Lstat(victim); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the link was followed")
	}
	must(t, os.Remove(filepath.Join(s.locks, key)))
	must(t, syscall.Mkfifo(filepath.Join(s.locks, key), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if claim, err := s.Seize(ctx, key, nil); err == nil {
		must(t, claim.Release())
	} else if errors.Is(err, context.DeadlineExceeded) {
		t.Error("a FIFO as lock blocks for ever")
	}
}

func TestLeftoversOfTheDeadAreRemoved(t *testing.T) {
	s := open(t)
	living, err := s.Seize(t.Context(), keyOf("living"), nil)
	must(t, err)
	plant := func(name string) string {
		dir := filepath.Join(s.tmp, name)
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "content"), []byte("half"), 0o600))
		return dir
	}
	dead, meta, foreign := plant(keyOf("dead")+"-123"), plant(metaPrefix+"9"), plant("other-version")
	used := plant(keyOf("living") + "-123")
	must(t, s.Sweep(t.Context()))
	for path, stays := range map[string]bool{dead: false, meta: false, foreign: true, used: true} {
		if _, err := os.Lstat(path); (err == nil) != stays {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
	}
	must(t, living.Release())
	must(t, s.Sweep(t.Context()))
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestOneClaimAtATime(t *testing.T) {
	s := open(t)
	key := keyOf("x")
	first, err := s.Seize(t.Context(), key, nil)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan struct{})
	refused := make(chan error)
	go func() {
		_, err := s.Seize(ctx, key, once(waiting))
		refused <- err
	}()
	<-waiting
	cancel()
	if err := <-refused; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	next := make(chan error)
	waits := make(chan struct{})
	go func() {
		claim, err := s.Seize(t.Context(), key, once(waits))
		if err == nil {
			err = claim.Release()
		}
		next <- err
	}()
	<-waits
	must(t, first.Release())
	must(t, <-next)
}

// once closes a channel when a claim is waited for.
func once(told chan struct{}) func(int64, int64) {
	return func(int64, int64) {
		select {
		case <-told:
		default:
			close(told)
		}
	}
}

func view(name, key string) View {
	return View{
		Release: "1.0", Preset: "pi", Arch: "amd64", VMM: "qemu",
		Files: []ViewFile{{Name: name, Key: key, Archive: keyOf("archive " + name)}},
	}
}

// Our own links change the file's ctime; no other process may take that for an
// alteration.
func TestShowingKeepsObjectsReady(t *testing.T) {
	s := open(t)
	base, kernel := add(t, s, "base", "bytes"), add(t, s, "kernel", "vmlinux")
	for _, preset := range []string{"pi", "codex", "pi"} {
		v := view("base", base)
		v.Preset = preset
		v.Files = append(v.Files, ViewFile{Name: "kernel", Key: kernel, Archive: keyOf("archive kernel")})
		must(t, s.Show(t.Context(), v))
	}
	smaller := view("base", base) // unlinks the kernel from pi's view
	must(t, s.Show(t.Context(), smaller))
	for _, key := range []string{base, kernel} {
		if got := s.look(key).State; got != Ready {
			t.Errorf("%.8s is %s", key, got)
		}
	}
}

// A view that is not right is made anew from the objects.
func TestViewIsRepaired(t *testing.T) {
	s := openInMemory(t)
	v := view("base.ext4", add(t, s, "base.ext4", "bytes"))
	file := filepath.Join(s.Folder(v), "base.ext4")
	tests := map[string]func(){
		"file gone":     func() { must(t, os.Remove(file)) },
		"file replaced": func() { must(t, os.Remove(file)); must(t, os.WriteFile(file, []byte("evil!"), 0o444)) },
		"file a link":   func() { must(t, os.Remove(file)); must(t, os.Symlink("/dev/zero", file)) },
		"sidecar gone":  func() { must(t, os.Remove(file+sidecarSuffix)) },
		"sidecar empty": func() { must(t, os.Chmod(file+sidecarSuffix, 0o644)); must(t, os.Truncate(file+sidecarSuffix, 0)) },
		"sidecar of others": func() {
			must(t, os.Remove(file+sidecarSuffix))
			must(t, os.WriteFile(file+sidecarSuffix, []byte(keyOf("z")+"\n"), 0o444))
		},
		"sidecar a link":   func() { must(t, os.Remove(file+sidecarSuffix)); must(t, os.Symlink("/dev/zero", file+sidecarSuffix)) },
		"description gone": func() { must(t, os.Remove(filepath.Join(s.Folder(v), viewFile))) },
		"description junk": func() {
			p := filepath.Join(s.Folder(v), viewFile)
			must(t, os.Remove(p))
			must(t, os.WriteFile(p, []byte("{}"), 0o444))
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			must(t, s.Show(t.Context(), v))
			damage()
			settle(t, s, v.Files[0].Key) // removing a link touches the file
			must(t, s.Show(t.Context(), v))
			data, err := os.ReadFile(file)
			mark, markErr := os.ReadFile(file + sidecarSuffix)
			if err != nil || string(data) != "bytes" || markErr != nil || string(mark) != keyOf("archive base.ext4")+"\n" {
				t.Errorf("%q, %v, sidecar %q, %v", data, err, mark, markErr)
			}
			if got := state(t, s, v.Files[0].Key); got != Ready {
				t.Errorf("object is %s", got)
			}
		})
	}
}

// settle does what a caller does that has verified a doubtful object.
func settle(t *testing.T, s *Store, key string) {
	t.Helper()
	claim, err := s.Seize(t.Context(), key, nil)
	must(t, err)
	file, identity, err := claim.Open()
	must(t, err)
	must(t, file.Close())
	_, err = claim.Settle(t.Context(), origin("base.ext4", 5), identity)
	must(t, errors.Join(err, claim.Release()))
}

func TestShowRefuses(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	for name, change := range map[string]func(v *View){
		"release up":    func(v *View) { v.Release = ".." },
		"preset path":   func(v *View) { v.Preset = "a/b" },
		"file up":       func(v *View) { v.Files[0].Name = "../x" },
		"hidden file":   func(v *View) { v.Files[0].Name = ".image.json" },
		"no such bytes": func(v *View) { v.Files[0].Key = keyOf("nothing") },
		"no digest":     func(v *View) { v.Files[0].Archive = "x" },
	} {
		v := view("base", key)
		change(&v)
		if err := s.Show(t.Context(), v); err == nil {
			t.Errorf("%s: shown", name)
		}
	}
	must(t, os.Chtimes(s.look(key).Path, time.Now(), time.Now()))
	if err := s.Show(t.Context(), view("base", key)); err == nil {
		t.Error("a doubtful object was shown")
	}
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestListing(t *testing.T) {
	s := open(t)
	if images, err := s.Images(); err != nil || len(images) != 0 {
		t.Errorf("empty store: %v, %v", images, err)
	}
	content := strings.Repeat("x", 100_000)
	key := add(t, s, "base", content)
	for _, preset := range []string{"pi", "codex"} {
		v := view("base", key)
		v.Preset = preset
		must(t, s.Show(t.Context(), v))
	}
	must(t, os.MkdirAll(filepath.Join(s.images, "junk", "x"), 0o755))
	must(t, os.WriteFile(filepath.Join(s.images, "file"), nil, 0o644))
	images, err := s.Images()
	must(t, err)
	if len(images) != 2 || images[0].Preset != "codex" || images[1].Size != int64(len(content)) || images[1].Assets[0].State != Ready {
		t.Errorf("images: %+v", images)
	}
	usage, err := s.Usage()
	must(t, err)
	if usage < int64(len(content)) || usage > 2*int64(len(content)) || images[0].Allocated != usage {
		t.Errorf("usage %d, image %d: the shared file has to count once", usage, images[0].Allocated)
	}
}

func TestSpaceIsNamed(t *testing.T) {
	s := open(t)
	free, err := s.Free()
	must(t, err)
	if err := s.Reserve(1); err != nil {
		t.Errorf("one byte: %v", err)
	}
	err = s.Reserve(free + 1)
	if fault.CodeOf(err) != fault.Storage || !strings.Contains(err.Error(), "are needed") || !strings.Contains(err.Error(), "are free") {
		t.Errorf("err = %v", err)
	}
	for _, system := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, fs.ErrPermission} {
		if err := s.Explain(&fs.PathError{Op: "write", Path: "x", Err: system}); fault.CodeOf(err) != fault.Storage || fault.HintOf(err) == "" {
			t.Errorf("%v: %v", system, err)
		}
	}
	known := fault.New(fault.Network, "", "x: %w", syscall.ENOSPC)
	if err := s.Explain(known); fault.CodeOf(err) != fault.Network {
		t.Error("a known fault was changed")
	}
}

// Nobody waits for the store's lock in silence.
func TestLongWaitIsTold(t *testing.T) {
	s := open(t)
	held, err := s.lock(t.Context())
	must(t, err)
	var told []string
	again, err := Open(s.home, Waiting(func(lock string) func() {
		told = append(told, lock)
		must(t, held.Unlock())
		return func() { told = append(told, "over") }
	}))
	must(t, err)
	lease, err := again.Lease(t.Context(), "launch", nil)
	must(t, err)
	must(t, lease.Release())
	if len(told) != 2 || told[0] != filepath.Join(s.locks, storeLock) || told[1] != "over" {
		t.Errorf("told %q", told)
	}
}

// A store that cannot be written still tells what is in it.
func TestReadOnlyStore(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere: run as another user")
	}
	s := open(t)
	key := add(t, s, "base", "bytes")
	v := view("base", key)
	must(t, s.Show(t.Context(), v))
	dirs := []string{s.home, s.objects, s.locks, s.tmp, s.images, filepath.Join(s.home, "store"), filepath.Join(s.images, v.Release), s.Folder(v)}
	for _, dir := range dirs {
		must(t, os.Chmod(dir, 0o555))
		defer os.Chmod(dir, 0o755)
	}
	again, err := Open(s.home)
	must(t, err)
	must(t, again.Sweep(t.Context()))
	must(t, again.Show(t.Context(), v))
	if got := state(t, again, key); got != Ready {
		t.Errorf("object is %s", got)
	}
	if _, err := again.Seize(t.Context(), keyOf("new"), nil); fault.CodeOf(err) != fault.Storage {
		t.Errorf("a new claim: %v", err)
	}
	_, pruneErr := again.Prune(t.Context(), all())
	_, removeErr := again.Remove(t.Context(), []Image{{View: v}}, nil, false)
	for _, err := range []error{pruneErr, removeErr} {
		if fault.CodeOf(err) != fault.Storage || fault.HintOf(err) == "" {
			t.Errorf("removing: %v", err)
		}
	}
}

// Launches look objects up while others show views of them; none may ever see a
// doubtful one.
func TestLookupDuringShow(t *testing.T) {
	s := openInMemory(t)
	key := add(t, s, "base", "bytes")
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			v := view("base", key)
			v.Preset = string(rune('a' + i))
			for range 5 {
				v.Files[0].Archive = keyOf(v.Files[0].Archive) // never right already
				if err := s.Show(t.Context(), v); err != nil {
					t.Error(err)
				}
				object, err := s.Lookup(t.Context(), key)
				if err != nil || object.State != Ready {
					t.Errorf("%s, %v", object.State, err)
				}
			}
		})
	}
	group.Wait()
}

// BenchmarkReady is what a launch pays for one file: it has to stay far below
// 2 ms for a whole image.
func BenchmarkReady(b *testing.B) {
	s := open(b)
	key := add(b, s, "base", "bytes")
	for b.Loop() {
		if object, err := s.Lookup(b.Context(), key); err != nil || object.State != Ready {
			b.Fatal(object.State, err)
		}
	}
}
