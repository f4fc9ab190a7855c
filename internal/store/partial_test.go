package store

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// What an interrupted download has is there for the next one, and is gone when it
// is discarded or committed.
func TestPartialIsResumed(t *testing.T) {
	s := open(t)
	key := partialOf(t, s, "base")
	claim := seize(t, s, key)
	must(t, claim.KeepIndex([]byte("index of base")))
	must(t, claim.Release())

	claim = seize(t, s, key)
	if raw := claim.PartialIndex(); string(raw) != "index of base" {
		t.Errorf("index: %q", raw)
	}
	file, err := claim.Partial()
	must(t, err)
	if data, err := io.ReadAll(file); err != nil || string(data) != "half" {
		t.Errorf("resumed: %q, %v", data, err)
	}
	if again, err := claim.Partial(); err != nil || again != file {
		t.Errorf("asked twice: %v", err)
	}
	must(t, claim.Discard())
	if raw := claim.PartialIndex(); raw != nil {
		t.Errorf("discarded: %q", raw)
	}
	file, err = claim.Partial()
	must(t, err)
	if data, err := io.ReadAll(file); err != nil || len(data) > 0 {
		t.Errorf("discarded: %q, %v", data, err)
	}
	must(t, errors.Join(claim.Discard(), claim.Release(), claim.Release()))
	add(t, s, "base", "bytes")
	if left, err := os.ReadDir(s.partials); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestIndexIsKeptOnlyWithItsDigest(t *testing.T) {
	s := open(t)
	key := partialOf(t, s, "base")
	claim := seize(t, s, key)
	defer claim.Release()
	if err := claim.KeepIndex([]byte("another")); err == nil {
		t.Error("an index with another digest was kept")
	}
	must(t, os.WriteFile(filepath.Join(claim.partial(), indexFile), []byte("altered"), 0o600))
	if raw := claim.PartialIndex(); raw != nil {
		t.Errorf("altered: %q", raw)
	}
	if _, err := claim.Partial(); err != nil {
		t.Fatal(err)
	}
	if _, err := claim.Commit(t.Context(), origin("base", 4), []byte("another")); err == nil {
		t.Error("committed with an index of another digest")
	}
}

// A Doubtful object's index serves to repair it.
func TestIndexOfADoubtfulObject(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	must(t, errors.Join(os.Chmod(s.look(key).Path, 0o644), os.Truncate(s.look(key).Path, 0)))
	claim := seize(t, s, key)
	defer claim.Release()
	if raw := claim.PartialIndex(); string(raw) != "index of base" {
		t.Errorf("index: %q", raw)
	}
}

// Nothing planted in place of a partial, its content or its archive is written
// through or waited for.
func TestPlantedPartials(t *testing.T) {
	plants := map[string]func(path, victim string) error{
		"link":         func(path, victim string) error { return os.Symlink(victim, path) },
		"hanging link": func(path, victim string) error { return os.Symlink(victim+"-none", path) },
		"link to dir":  func(path, victim string) error { return os.Symlink(filepath.Dir(victim), path) },
		"hard link":    func(path, victim string) error { return os.Link(victim, path) },
		"fifo":         func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
		"full folder":  func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o777) },
		"open folder":  func(path, _ string) error { return errors.Join(os.Mkdir(path, 0o777), os.Chmod(path, 0o777)) },
	}
	for name, plant := range plants {
		for _, at := range []string{"", contentFile, archiveFile, progressFile, indexFile} {
			t.Run(name+" at "+at, func(t *testing.T) {
				s := openInMemory(t)
				key := keyOf("index of base")
				victim := filepath.Join(s.home, "victim")
				must(t, os.WriteFile(victim, []byte("precious"), 0o644))
				if at != "" {
					must(t, os.Mkdir(filepath.Join(s.partials, key), 0o700))
				}
				must(t, plant(filepath.Join(s.partials, key, at), victim))
				claim := seize(t, s, key)
				must(t, claim.KeepIndex([]byte("index of base")))
				for _, open := range []func() (*os.File, error){claim.Archive, claim.Partial} {
					file, err := open()
					must(t, err)
					_, err = file.WriteString("bytes")
					must(t, err)
				}
				claim.Progress(1, 2)
				_, err := claim.Commit(t.Context(), origin("base", 5), []byte("index of base"))
				must(t, errors.Join(err, claim.Release()))
				if got := state(t, s, key); got != Ready {
					t.Errorf("the object is %s", got)
				}
				if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
					t.Errorf("the victim holds %q, %v", data, err)
				}
				if _, err := os.Lstat(victim + "-none"); err == nil {
					t.Error("a file elsewhere was made")
				}
			})
		}
	}
}

// TestForeignPartial needs another user's folder, which only root can make.
func TestForeignPartial(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives a folder to another user")
	}
	s := open(t)
	key := partialOf(t, s, "base")
	dir := filepath.Join(s.partials, key)
	for _, path := range []string{filepath.Join(dir, contentFile), dir} {
		must(t, os.Lchown(path, 12345, 12345))
		claim := seize(t, s, key)
		file, err := claim.Partial()
		must(t, err)
		if data, err := io.ReadAll(file); err != nil || len(data) > 0 {
			t.Errorf("another user's bytes were resumed: %q, %v", data, err)
		}
		_, err = file.WriteString("half")
		must(t, errors.Join(err, claim.Release()))
	}
	must(t, os.Chown(s.partials, 12345, 12345))
	claim := seize(t, s, keyOf("index of other"))
	defer claim.Release()
	if _, err := claim.Partial(); fault.CodeOf(err) != fault.Storage {
		t.Errorf("another user's folder of partials: %v", err)
	}
}

// A commit that was interrupted after it closed the file is resumed.
func TestReadOnlyPartialIsResumed(t *testing.T) {
	s := open(t)
	key := partialOf(t, s, "base")
	must(t, os.Chmod(filepath.Join(s.partials, key, contentFile), 0o444))
	claim := seize(t, s, key)
	defer claim.Release()
	file, err := claim.Partial()
	must(t, err)
	if _, err := file.WriteAt([]byte("h"), 0); err != nil {
		t.Error(err)
	}
	if data, err := io.ReadAll(file); err != nil || string(data) != "half" {
		t.Errorf("%q, %v", data, err)
	}
}

// Those who wait see how far the owner is, and go on when the object is ready
// although the claim is still held.
func TestFollowersNeedNoLock(t *testing.T) {
	s := open(t)
	key := keyOf("index of base")
	claim := seize(t, s, key)
	defer claim.Release()
	file, err := claim.Partial()
	must(t, err)
	claim.Progress(7, 9)
	told, done := make(chan [2]int64, 100), make(chan error)
	go func() {
		follower, ready, err := s.Claim(t.Context(), key, func(done, total int64) { told <- [2]int64{done, total} })
		if err == nil && (!ready || follower != nil) {
			err = errors.New("a claim although the object is ready")
		}
		done <- err
	}()
	if got := <-told; got != [2]int64{7, 9} {
		t.Errorf("told %d", got)
	}
	claim.Progress(8, 9)
	for got := range told {
		if got == [2]int64{8, 9} {
			break
		}
	}
	_, err = file.WriteString("bytes")
	must(t, err)
	_, err = claim.Commit(t.Context(), origin("base", 5), []byte("index of base"))
	must(t, err)
	must(t, <-done)
}

// Fifty that wait must not load the machine, and must go on soon.
func TestManyFollowers(t *testing.T) {
	s := openInMemory(t)
	key := keyOf("index of base")
	claim := seize(t, s, key)
	var waiting, finished sync.WaitGroup
	for range 50 {
		waiting.Add(1)
		finished.Go(func() {
			var once sync.Once
			_, ready, err := s.Claim(t.Context(), key, func(int64, int64) { once.Do(waiting.Done) })
			if err != nil || !ready {
				t.Errorf("ready: %v, %v", ready, err)
			}
		})
	}
	waiting.Wait()
	before := processorTime(t)
	<-time.After(time.Second)
	if used := processorTime(t) - before; used > 250*time.Millisecond {
		t.Errorf("50 that wait used %v of processor time in a second", used)
	}
	file, err := claim.Partial()
	must(t, err)
	_, err = file.WriteString("bytes")
	must(t, err)
	begun := time.Now()
	_, err = claim.Commit(t.Context(), origin("base", 5), []byte("index of base"))
	must(t, err)
	finished.Wait()
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the last follower went on after %v", took)
	}
	must(t, claim.Release())
}

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// When the owner dies one of those who wait takes over.
func TestFollowerTakesOver(t *testing.T) {
	s := open(t)
	key := keyOf("index of base")
	claim := seize(t, s, key)
	taken := make(chan error)
	waits := make(chan struct{})
	go func() {
		next, ready, err := s.Claim(t.Context(), key, once(waits))
		if err == nil && !ready {
			err = next.Release()
		}
		taken <- err
	}()
	<-waits
	must(t, claim.lock.Unlock()) // as the kernel does it
	must(t, <-taken)
}

// A look at a claim does not make a process believe that another one downloads.
func TestPruneIsNoDownload(t *testing.T) {
	s := openInMemory(t)
	partialOf(t, s, "base")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var pruner sync.WaitGroup
	pruner.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Prune(ctx, PruneOptions{Keep: -1, Now: time.Now()}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 100 {
		claim, err := s.Seize(t.Context(), keyOf("index of base"), nil)
		must(t, err)
		must(t, claim.Release())
	}
	stop()
	pruner.Wait()
}

// The archive is kept with a new object, with one that is here, and when the
// object is replaced; the view shows it.
func TestKeptArchive(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	v := view("base", key)
	must(t, s.Show(t.Context(), v))
	keepArchive(t, s, "base")
	must(t, s.Show(t.Context(), v))
	shown := filepath.Join(s.Folder(v), "base.zst")
	if data, err := os.ReadFile(shown); err != nil || string(data) != "0123456789" {
		t.Errorf("%q, %v", data, err)
	}
	must(t, os.Chtimes(s.look(key).Path, time.Now(), time.Now()))
	repair(t, s, "base", "bytes")
	object := s.look(key)
	if data, err := os.ReadFile(object.Archive); err != nil || string(data) != "0123456789" {
		t.Errorf("after a repair: %q, %v", data, err)
	}
	if !s.isShown(v) {
		t.Error("the view does not follow the repair")
	}
	images, err := s.Images()
	must(t, err)
	if len(images) != 1 || !images[0].Assets[0].Archive {
		t.Errorf("the listing does not say so: %+v", images)
	}
}

// How much an interrupted download has left is told without a claim.
func TestPartialIsEstimated(t *testing.T) {
	s := open(t)
	key := partialOf(t, s, "unfinished")
	if n := s.Partial(key); n <= 0 || n > 1<<20 {
		t.Errorf("%d bytes of a partial", n)
	}
	for _, none := range []string{keyOf("none"), "../x"} {
		if n := s.Partial(none); n != 0 {
			t.Errorf("%d bytes of %s", n, none)
		}
	}
}
