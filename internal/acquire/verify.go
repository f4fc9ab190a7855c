package acquire

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/unpack"
)

// Report is what reading one stored file again has shown.
type Report struct {
	Name   string   `json:"name"`   // kernel, base.ext4
	Path   string   `json:"path"`   // of the stored file
	Images []string `json:"images"` // folders that show it
	Size   int64    `json:"size"`
	Frames int      `json:"frames"`
	Bad    []int    `json:"bad_frames"`        // numbers, from 0
	Fault  string   `json:"problem,omitempty"` // what is wrong; empty: nothing
	// Sound: the stored file is what was verified, and boots. What is wrong, if
	// anything, is beside it: the archive that is kept, what an image's folder shows.
	Sound bool `json:"sound"`
}

// Verify reads every file of the images again, each once: the frames and the
// file as a whole, the archive that is kept, and what the image's folder shows.
// An object that is not what was verified becomes Doubtful, so that the next
// launch or pull repairs it; one that was only touched becomes Ready.
//
// A lease keeps the objects here; an image that was removed before is left out.
func (a *Acquirer) Verify(ctx context.Context, images []store.Image) (_ []Report, err error) {
	if len(images) == 0 {
		return []Report{}, nil
	}
	lease, err := a.store.Lease(ctx, "image verify", shownKeys(images))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	if err := a.sweep(ctx); err != nil {
		return nil, err
	}
	reports := []Report{}
	numbers := map[string]int{}
	for _, image := range images {
		if _, err := os.Lstat(image.Path); errors.Is(err, os.ErrNotExist) {
			continue
		}
		for _, file := range image.Files {
			n, seen := numbers[file.Key]
			if !seen {
				report, err := a.verify(ctx, file)
				if err != nil {
					return reports, err
				}
				n = len(reports)
				numbers[file.Key] = n
				reports = append(reports, report)
			}
			reports[n].Images = append(reports[n].Images, image.Path)
			if reports[n].Fault == "" {
				if reports[n].Fault, err = a.shown(ctx, image.Path, file, reports[n].Path); err != nil {
					return reports, err
				}
			}
		}
	}
	return reports, nil
}

// shownKeys are the objects that images show, each once.
func shownKeys(images []store.Image) []string {
	keys := map[string]bool{}
	for _, image := range images {
		for _, file := range image.Files {
			keys[file.Key] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// verify reads one object under its claim, so that nobody replaces it meanwhile.
func (a *Acquirer) verify(ctx context.Context, file store.ViewFile) (Report, error) {
	report := Report{Name: file.Name, Bad: []int{}}
	claim, err := a.seize(ctx, file)
	if fault.CodeOf(err) == fault.Conflict { // a newer version's
		report.Fault = err.Error()
		return report, nil
	}
	if err != nil && (ctx.Err() != nil || !foreign(err)) {
		return report, err
	}
	object, err := a.store.Lookup(ctx, file.Key)
	if err == nil {
		report.Path, report.Size = object.Path, object.Origin.Content.Size
		begun := a.now()
		a.emit(event.Event{Kind: event.Start, Stage: event.Verify, Object: file.Name, Total: report.Size})
		err = a.examine(ctx, object, claim, &report)
		a.emit(event.Event{Kind: event.Done, Stage: event.Verify, Object: file.Name, Bytes: report.Size, Total: report.Size, Elapsed: a.now().Sub(begun)})
	}
	if claim != nil {
		err = errors.Join(err, claim.Release())
	}
	return report, err
}

// seize waits for whoever works on the object, and says so.
func (a *Acquirer) seize(ctx context.Context, file store.ViewFile) (*store.Claim, error) {
	var done func(int64)
	claim, err := a.store.Seize(ctx, file.Key, func(int64, int64) {
		if done == nil {
			done = event.Span(a.sink, a.now, event.Wait, file.Name)
		}
	})
	if done != nil {
		done(0)
	}
	return claim, err
}

// foreign recognizes a store of another user, where nothing can be written.
func foreign(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// examine reads content and archive and draws the consequence. In a store of
// another user nothing is recorded.
func (a *Acquirer) examine(ctx context.Context, object store.Object, claim *store.Claim, report *Report) error {
	if object.State == store.Absent {
		report.Fault = "it is gone"
		return nil
	}
	file, settle, err := a.openContent(ctx, object, claim)
	if err != nil {
		report.Fault = fmt.Sprintf("it cannot be read: %v", err)
		return doubt(ctx, claim)
	}
	defer file.Close()
	if err := a.reread(ctx, object, file, report); err != nil {
		return err
	}
	switch {
	case claim == nil:
	case report.Fault != "":
		return doubt(ctx, claim)
	case object.State == store.Doubtful && usable(object.Origin):
		if err := settle(); err != nil && !foreign(err) {
			return err
		}
	}
	report.Sound = report.Fault == ""
	return verifyArchive(ctx, object, claim, report)
}

func doubt(ctx context.Context, claim *store.Claim) error {
	if claim == nil {
		return nil
	}
	if err := claim.Doubt(ctx); err != nil && !foreign(err) {
		return err
	}
	return nil
}

// openContent opens the content, and gives what records that it was right.
func (a *Acquirer) openContent(ctx context.Context, object store.Object, claim *store.Claim) (*os.File, func() error, error) {
	if claim == nil {
		file, err := openRegular(object.Path)
		return file, func() error { return nil }, err
	}
	file, identity, err := claim.Open()
	return file, func() error {
		_, err := claim.Settle(ctx, object.Origin, identity)
		return err
	}, err
}

// reread compares every frame, and the file as a whole, at the same time.
func (a *Acquirer) reread(ctx context.Context, object store.Object, file *os.File, report *Report) error {
	raw, err := a.store.Index(object.Key)
	if err != nil {
		report.Fault = err.Error()
		return nil
	}
	index, err := unpack.ParseIndex(raw)
	if err != nil {
		report.Fault = err.Error()
		return nil
	}
	report.Frames, report.Size = len(index.Frames), index.Size
	group, ctx := errgroup.WithContext(ctx)
	var whole string
	group.Go(func() (err error) {
		whole, err = a.digest(ctx, file, report)
		return err
	})
	group.Go(func() error {
		bad, err := unpack.Verify(ctx, index, file)
		if errors.Is(err, unpack.ErrDigest) {
			report.Fault = err.Error()
			return nil
		}
		report.Bad = append(report.Bad, bad...)
		return err
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("verify %s: %w", report.Name, err)
	}
	switch {
	case report.Fault != "":
	case len(report.Bad) > 0:
		report.Fault = fmt.Sprintf("%d of %d frames are wrong", len(report.Bad), report.Frames)
	case usable(object.Origin) && whole != object.Origin.Content.SHA256:
		report.Fault = "its frames are right, its digest as a whole is not that of the manifest"
	}
	return nil
}

// digest reads a whole file and tells how far it is.
func (a *Acquirer) digest(ctx context.Context, file *os.File, report *Report) (string, error) {
	digest := sha256.New()
	buffer := make([]byte, 1<<20)
	told := a.now()
	for at := int64(0); ; {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		n, err := file.ReadAt(buffer, at)
		digest.Write(buffer[:n])
		at += int64(n)
		if now := a.now(); now.Sub(told) >= progressEvery {
			told = now
			a.emit(event.Event{Kind: event.Progress, Stage: event.Verify, Object: report.Name, Bytes: at, Total: report.Size})
		}
		switch {
		case errors.Is(err, io.EOF):
			return hex.EncodeToString(digest.Sum(nil)), nil
		case err != nil:
			return "", err
		}
	}
}

// verifyArchive reads the archive that is kept. A wrong one goes: nothing needs it,
// and only one that is not here is fetched.
func verifyArchive(ctx context.Context, object store.Object, claim *store.Claim, report *Report) error {
	if object.Archive == "" || report.Fault != "" || !usable(object.Origin) {
		return nil
	}
	sum, err := digestOf(ctx, object.Archive)
	if err != nil || sum == object.Origin.Archive.SHA256 {
		return err
	}
	report.Fault = "the archive that is kept beside it is not that of the manifest; the file itself is right"
	if claim == nil {
		return nil
	}
	if err := claim.DropArchive(ctx); err != nil {
		if foreign(err) {
			return nil
		}
		return err
	}
	report.Fault = "the archive that was kept beside it was not that of the manifest and is removed; the file itself is right: " +
		"`smolvm image pull --keep-archive` fetches the archive again"
	return nil
}

// shown looks for damage in what an image's folder shows. A folder that goes or is
// replaced meanwhile is none: what is there then counts.
func (a *Acquirer) shown(ctx context.Context, folder string, file store.ViewFile, content string) (problem string, err error) {
	for range 5 {
		before, _ := os.Lstat(folder) // gone: so it is below, or it is another one
		if problem = compare(ctx, folder, file, content); problem == "" {
			return "", nil
		}
		gone, moved := false, false
		err := a.store.Still(ctx, func() {
			after, err := os.Lstat(folder)
			gone = errors.Is(err, os.ErrNotExist)
			moved = before == nil || err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) // numbers come again
		})
		switch {
		case err != nil:
			return "", err
		case gone:
			return "", nil
		case !moved:
			return problem, nil
		}
	}
	return problem, nil
}

// compare compares what an image's folder shows with the object.
func compare(ctx context.Context, folder string, file store.ViewFile, content string) string {
	path := filepath.Join(folder, file.Name)
	if mark, err := os.ReadFile(path + ".from-sha256"); err != nil || strings.TrimSpace(string(mark)) != file.Archive {
		return path + ".from-sha256 is not what was written: the next launch writes it again"
	}
	there, err := os.Lstat(path)
	if err != nil {
		return path + " is gone: the next launch shows it again"
	}
	object, err := os.Lstat(content)
	if err != nil || os.SameFile(there, object) {
		return ""
	}
	sum, err := digestOf(ctx, path) // a copy, where the file system has no links
	if want, wantErr := digestOf(ctx, content); err != nil || wantErr != nil || sum != want {
		return path + " is not what was verified: remove the image and pull it again"
	}
	return ""
}

func digestOf(ctx context.Context, path string) (string, error) {
	file, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, cancellable{ctx, file}); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

// openRegular opens a file, no link, and nothing that would block or act.
func openRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, file.Close(), fmt.Errorf("open %s: not a regular file", path))
	}
	return file, nil
}
