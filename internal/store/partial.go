package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sparse"
)

// Files of a partial besides those of an object. Everything in the folder of a
// partial is unverified: whoever resumes it verifies each frame again.
const progressFile = "progress"

func (c *Claim) partial() string { return filepath.Join(c.store.partials, c.key) }

// Partial opens the file that the object's bytes are expanded to: what an earlier
// claim has left, or a new and empty one. The claim closes it.
func (c *Claim) Partial() (*os.File, error) {
	if c.content != nil {
		return c.content, nil
	}
	file, err := c.resume(contentFile)
	c.content = file
	return file, err
}

// Archive opens the file that the published archive is kept in, as Partial does
// with the expanded one. Commit or KeepArchive adopt it.
func (c *Claim) Archive() (*os.File, error) {
	if c.archive != nil {
		return c.archive, nil
	}
	file, err := c.resume(archiveFile)
	c.archive = file
	return file, err
}

// PartialIndex is the frame index that an earlier claim has kept, or that lies
// with a Doubtful object; nil if there is none with the right bytes.
func (c *Claim) PartialIndex() []byte {
	if ours(c.partial()) {
		raw, err := readFile(filepath.Join(c.partial(), indexFile), maxIndex)
		if err == nil && keyIs(c.key, raw) {
			return raw
		}
	}
	raw, err := c.store.Index(c.key)
	if err != nil {
		return nil
	}
	return raw
}

// KeepIndex keeps the frame index with the partial, so that it can be resumed
// without the network.
func (c *Claim) KeepIndex(raw []byte) error {
	if !keyIs(c.key, raw) {
		return fmt.Errorf("keep the index %.12s: its bytes have another digest", c.key)
	}
	if err := c.ensurePartial(); err != nil {
		return err
	}
	path := filepath.Join(c.partial(), indexFile)
	err := c.store.removeAll(path)
	if err == nil {
		err = c.store.writeFile(path, raw, 0o444)
	}
	if err != nil {
		return storage(path, "write", err)
	}
	return nil
}

// Discard deletes the partial; the claim stays.
func (c *Claim) Discard() error {
	err := errors.Join(c.closePartial(false), c.store.removeAll(c.partial()))
	if err != nil {
		return storage(c.partial(), "remove", err)
	}
	return nil
}

// resume opens a file of the partial for writing. A file that could lead a write
// elsewhere is replaced by an empty one.
func (c *Claim) resume(name string) (*os.File, error) {
	if err := c.ensurePartial(); err != nil {
		return nil, err
	}
	path := filepath.Join(c.partial(), name)
	if file, err := reopen(path); err == nil {
		return file, nil
	}
	err := c.store.removeAll(path)
	if err == nil {
		var file *os.File
		if file, err = sparse.Create(path); c.store.told("create", path, err) == nil {
			return file, nil
		}
	}
	return nil, storage(path, "make", err)
}

// reopen opens a regular file that is this user's alone. Nobody can plant another
// between the look and the opening: the folder is this user's alone, too.
func reopen(path string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("open %s: not a file of this user alone", path)
	}
	if st.Mode&0o777 != 0o600 { // an adoption was interrupted
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// ensurePartial makes the partial's folder, for this user alone. What was planted
// in its place is retired.
func (c *Claim) ensurePartial() error {
	dir := c.partial()
	if ours(dir) {
		return nil
	}
	if err := c.store.trustPartials(); err != nil {
		return err
	}
	if err := c.dispose(dir); err != nil {
		return storage(dir, "replace", err)
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o700) // whatever the umask
	}
	if c.store.told("mkdir", dir, err) != nil {
		return storage(dir, "make", err)
	}
	return nil
}

// dispose gets rid of whatever is at a path that only the claim's owner may use.
func (c *Claim) dispose(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	b := &bin{store: c.store, prefix: c.key + "-"}
	return errors.Join(b.retire(path), b.empty())
}

// trustPartials refuses a folder of partials that belongs to somebody who is
// neither this user nor the owner of the home folder: he could exchange what is
// in it at any time.
func (s *Store) trustPartials() error {
	var home, dir unix.Stat_t
	if err := unix.Stat(s.home, &home); err != nil {
		return storage(s.home, "look at", err)
	}
	if err := unix.Lstat(s.partials, &dir); err != nil {
		return storage(s.partials, "look at", err)
	}
	if dir.Mode&unix.S_IFMT != unix.S_IFDIR || (int(dir.Uid) != os.Geteuid() && dir.Uid != home.Uid) {
		return fault.New(fault.Storage, "Remove it, or put the cache elsewhere with SMOLVM_HOME.",
			"download to %s: it is not a folder of this user (owner %d)", s.partials, dir.Uid)
	}
	return nil
}

// ours tells whether a folder is one that nobody else can write to.
func ours(dir string) bool {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) == os.Geteuid() && st.Mode&0o022 == 0
}

// closePartial closes the partial's files and ends what is said about progress,
// for good if the claim is given up. An empty folder goes away.
func (c *Claim) closePartial(givenUp bool) error {
	err := errors.Join(c.closeFiles(), c.progress.close(givenUp))
	if ours(c.partial()) {
		_ = os.Remove(filepath.Join(c.partial(), progressFile)) // stale, and harmless if it stays
		_ = os.Remove(c.partial())                              // not empty: to be resumed
	}
	return err
}

func (c *Claim) closeFiles() error {
	var failed error
	for _, file := range []*os.File{c.content, c.archive} {
		if file != nil {
			failed = errors.Join(failed, file.Close())
		}
	}
	c.content, c.archive = nil, nil
	return failed
}

// progress is a small file that says how far a claim's owner is.
type progress struct {
	mu   sync.Mutex
	file *os.File
	off  bool // the claim is given up
}

// maxProgress is the size of the file: two numbers of 19 digits.
const maxProgress = 2*19 + 2

// Progress tells those who wait how far the owner is. It is one write, never
// synced, and does nothing before Partial; a failure is nobody's concern.
func (c *Claim) Progress(done, total int64) {
	c.progress.mu.Lock()
	defer c.progress.mu.Unlock()
	if c.progress.off {
		return
	}
	if c.progress.file == nil {
		path := filepath.Join(c.partial(), progressFile)
		if !ours(c.partial()) || os.RemoveAll(path) != nil {
			return
		}
		file, err := sparse.Create(path)
		if err != nil {
			return
		}
		c.progress.file = file
	}
	_, _ = c.progress.file.WriteAt(fmt.Appendf(nil, "%019d %019d\n", done, total), 0)
}

func (p *progress) close(off bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = off
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file = nil
	return err
}

// readProgress is what the owner of a claim last said, 0 of 0 if nothing.
func (s *Store) readProgress(key string) (done, total int64) {
	raw, err := readFile(filepath.Join(s.partials, key, progressFile), maxProgress)
	if err != nil || len(raw) != maxProgress {
		return 0, 0
	}
	if _, err := fmt.Sscanf(string(raw), "%d %d", &done, &total); err != nil || done < 0 || done > total {
		return 0, 0
	}
	return done, total
}
