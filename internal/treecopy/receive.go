package treecopy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// maxPath bounds the path of an entry in bytes, as the kernel does.
const maxPath = 4096

// Options say how to receive.
type Options struct {
	// FoldCase refuses two names that differ only in case: the file system takes
	// them for one.
	FoldCase bool
	Progress Progress
}

// Receive writes what a sender sends to a place.
func Receive(in io.Reader, to Place, o Options) (Summary, error) {
	root, err := os.OpenRoot(to.Dir)
	if err != nil {
		return Summary{}, err
	}
	defer root.Close()
	r := &receiver{in: newReader(in), outer: root, root: root, place: to, Options: o, seen: map[string]bool{}}
	err = r.all()
	if err == nil {
		err = r.finish()
	}
	err = errors.Join(err, r.discard())
	if r.root != r.outer {
		err = errors.Join(err, r.root.Close())
	}
	return r.sum, err
}

// receiver is one Receive.
type receiver struct {
	Options
	in    *reader
	outer *os.Root // of the place
	root  *os.Root // outer for what is copied itself; its folder for what is in that
	place Place
	sum   Summary
	seen  map[string]bool // with FoldCase: names in one case
	began bool            // the entry of what is copied itself has come
	dirs  []entry         // whose times and permissions come last, parents first

	file *os.File // being written under the name temp
	temp string
	open entry
	at   int64 // no data may come before it
	made int   // temporary names so far
}

// all takes frames to the last one.
func (r *receiver) all() error {
	for {
		f, text, err := r.in.next()
		if err != nil {
			return err
		}
		if _, ended, err := last(f, text); ended {
			if err == nil && r.file != nil {
				err = errors.New("the stream ended in the middle of a file")
			}
			return err
		}
		if err := r.take(f, text); err != nil {
			return err
		}
	}
}

func (r *receiver) take(f frame, text []byte) error {
	switch {
	case f == dataFrame && r.file != nil:
		return r.data(text)
	case f == closedFrame && r.file != nil:
		var e ending
		if err := json.Unmarshal(text, &e); err != nil {
			return err
		}
		return r.close(e)
	case f == entryFrame && r.file == nil:
		var e entry
		if err := json.Unmarshal(text, &e); err != nil {
			return err
		}
		return r.entry(e)
	case f == skipFrame:
		var said string
		if err := json.Unmarshal(text, &said); err != nil {
			return err
		}
		r.sum.skip(said)
		return nil
	}
	return fmt.Errorf("a frame %q where none may be", byte(f))
}

// entry makes what an entry describes, or begins with it.
func (r *receiver) entry(e entry) error {
	if err := r.check(e); err != nil {
		return err
	}
	r.sum.count(e)
	at := r.name(e.Path)
	switch e.Kind {
	case folder:
		r.dirs = append(r.dirs, e)
		if err := r.mkdir(at); err != nil || e.Path != "." {
			return err
		}
		return r.enter(at)
	case symlink:
		return r.link(at, string(e.Target))
	case regular:
		r.open, r.at = e, 0
		return r.begin(at)
	}
	return fmt.Errorf("%q is of an unknown kind %q", e.Path, e.Kind)
}

// check refuses names that lead elsewhere; the root would, too.
func (r *receiver) check(e entry) error {
	switch {
	case !valid(string(e.Path)):
		return fmt.Errorf("refused the name %.80q: it does not stay below the target", e.Path)
	case (e.Path == ".") == r.began, e.Path != "." && r.root == r.outer:
		return fmt.Errorf("refused the name %.80q: it is not in the folder that is copied", e.Path)
	case e.Kind == symlink && (e.Target == "" || strings.ContainsRune(string(e.Target), 0)):
		return fmt.Errorf("refused the link %q: it leads nowhere", e.Path)
	case e.Size < unknownSize:
		return fmt.Errorf("refused %q: its size is negative", e.Path)
	}
	r.began = true
	if !r.FoldCase {
		return nil
	}
	folded := strings.ToLower(string(e.Path))
	if r.seen[folded] {
		return fmt.Errorf("%q: there are two of that name here, where case makes no difference", e.Path)
	}
	r.seen[folded] = true
	return nil
}

// valid tells whether a path stays below what it is relative to, going by its words.
func valid(p string) bool {
	if p == "." {
		return true
	}
	for _, word := range strings.Split(p, "/") {
		if word == "" || word == "." || word == ".." {
			return false
		}
	}
	return len(p) <= maxPath && !strings.ContainsRune(p, 0)
}

// name is where an entry goes, below the root of the moment.
func (r *receiver) name(as name) string {
	if as == "." {
		return r.place.Name
	}
	return string(as)
}

// enter makes the folder that is copied the root of all that follows: links in it
// must not lead to what is beside it either.
func (r *receiver) enter(at string) error {
	inner, err := r.outer.OpenRoot(at)
	if err == nil {
		r.root = inner
	}
	return err
}

func (r *receiver) mkdir(at string) error {
	if at == "." {
		return nil
	}
	err := r.root.Mkdir(at, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, lerr := r.root.Lstat(at)
	if lerr == nil && !info.IsDir() {
		return fmt.Errorf("make the folder %s: something else is there", at)
	}
	return lerr
}

// link makes a link as it is: what it points to is nobody's business here.
func (r *receiver) link(at, target string) error {
	temp, err := r.fresh(at, func(temp string) error { return r.root.Symlink(target, temp) })
	if err != nil {
		return err
	}
	if err := r.root.Rename(temp, at); err != nil {
		return errors.Join(err, r.root.Remove(temp))
	}
	return nil
}

// begin opens a file beside its name.
func (r *receiver) begin(at string) (err error) {
	r.temp, err = r.fresh(at, func(temp string) (err error) {
		r.file, err = r.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	return err
}

// fresh makes something under a name that is free, beside another.
func (r *receiver) fresh(at string, create func(temp string) error) (string, error) {
	for {
		r.made++
		temp := path.Join(path.Dir(at), fmt.Sprintf(".smolvm-copy-%d-%d", os.Getpid(), r.made))
		if err := create(temp); !errors.Is(err, fs.ErrExist) {
			return temp, err
		}
	}
}

func (r *receiver) data(p []byte) error {
	at := r.in.at
	if at < r.at || at > 1<<62 || r.open.Size != unknownSize && at+int64(len(p)) > r.open.Size {
		return fmt.Errorf("%q: its content is not where it belongs", r.open.Path)
	}
	if _, err := r.file.WriteAt(p, at); err != nil {
		return err
	}
	r.at = at + int64(len(p))
	r.sum.Bytes += int64(len(p))
	if r.Progress != nil {
		r.Progress(r.sum.Bytes, max(r.open.Size, 0))
	}
	return nil
}

// close gives a file its size, permissions, time and name.
func (r *receiver) close(e ending) error {
	if e.Size < r.at || r.open.Size != unknownSize && e.Size > r.open.Size {
		return fmt.Errorf("%q: its size is not what its content says", r.open.Path)
	}
	if e.Size < r.open.Size {
		r.sum.skip(string(r.open.Path) + ": it became shorter while it was read")
	}
	f, temp := r.file, r.temp
	err := errors.Join(f.Truncate(e.Size), f.Chmod(fs.FileMode(r.open.Mode).Perm()), f.Close())
	r.file = nil
	if err == nil && r.open.Time != 0 {
		err = r.root.Chtimes(temp, time.Time{}, time.Unix(0, r.open.Time))
	}
	if err == nil {
		err = r.root.Rename(temp, r.name(r.open.Path))
	}
	if err != nil {
		return errors.Join(err, r.root.Remove(temp))
	}
	return nil
}

// finish gives folders what their content would have changed, or forbidden to be made.
func (r *receiver) finish() error {
	for i := len(r.dirs) - 1; i >= 0; i-- {
		e := r.dirs[i]
		if r.place.Merge && e.Path == "." {
			continue // it was there before
		}
		err := errors.Join(
			r.root.Chtimes(string(e.Path), time.Time{}, time.Unix(0, e.Time)),
			r.root.Chmod(string(e.Path), fs.FileMode(e.Mode).Perm()),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// discard removes a file that was not completed.
func (r *receiver) discard() error {
	if r.file == nil {
		return nil
	}
	return errors.Join(r.file.Close(), r.root.Remove(r.temp))
}

// ReceiveStream writes the content of the one file that a sender sends.
func ReceiveStream(in io.Reader, out io.Writer, progress Progress) (Summary, error) {
	r := &receiver{in: newReader(in)}
	var at int64
	for {
		f, text, err := r.in.next()
		if err != nil {
			return r.sum, err
		}
		if _, ended, err := last(f, text); ended {
			return r.sum, err
		}
		switch f {
		case entryFrame:
			var e entry
			if err := json.Unmarshal(text, &e); err != nil {
				return r.sum, err
			}
			if e.Kind != regular || r.sum.Files > 0 {
				return r.sum, ErrNoFile
			}
			r.sum.count(e)
			r.open = e
		case dataFrame:
			if r.in.at < at || r.sum.Files == 0 {
				return r.sum, errors.New("content that is not where it belongs")
			}
			err = errors.Join(zeros(out, r.in.at-at), write(out, text))
			at = r.in.at + int64(len(text))
			r.sum.Bytes += int64(len(text))
			if progress != nil {
				progress(r.sum.Bytes, max(r.open.Size, 0))
			}
		case closedFrame:
			var e ending
			if err = json.Unmarshal(text, &e); err == nil {
				err = zeros(out, e.Size-at)
			}
		}
		if err != nil {
			return r.sum, err
		}
	}
}

// ErrNoFile says that what was to be a stream is no file.
var ErrNoFile = errors.New("it is not a file")

func write(out io.Writer, p []byte) error {
	_, err := out.Write(p)
	return err
}

// zeros writes a hole.
func zeros(out io.Writer, n int64) error {
	none := make([]byte, min(max(n, 0), chunk))
	for n > 0 {
		m := min(n, int64(len(none)))
		if err := write(out, none[:m]); err != nil {
			return err
		}
		n -= m
	}
	return nil
}
