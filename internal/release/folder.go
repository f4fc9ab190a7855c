package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
)

// lockFile is held by whoever writes to a published folder.
const lockFile = ".lock"

// folder mirrors into a folder of this computer.
func (m *mirroring) folder(ctx context.Context, dir string) (Mirrored, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Mirrored{}, fmt.Errorf("find %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Mirrored{}, explain(dir, fmt.Errorf("make the mirror: %w", err))
	}
	lock, err := openPart(filepath.Join(dir, lockFile))
	if err != nil {
		return Mirrored{}, err
	}
	defer lock.Close()
	address := filepath.Join(dir, manifestFile)
	if err := m.mayReplace(ctx, address); err != nil {
		return Mirrored{}, err
	}
	m.progress.start()
	if err := m.fill(ctx, dir); err != nil {
		return Mirrored{}, explain(dir, err)
	}
	return m.result(address), nil
}

// mayReplace refuses a destination whose manifest is newer, or somebody else's.
func (m *mirroring) mayReplace(ctx context.Context, address string) error {
	rules := m.o.Rules
	rules.Memory, rules.FloorSerial, rules.Mirrors, rules.Carried, rules.Sink = nil, 0, nil, nil, nil
	there, err := resolve.LoadCatalogue(ctx, m.o.Source, address, rules)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil && fault.CodeOf(err) != fault.Trust:
		return fmt.Errorf("look for a manifest at %s: %w", fetch.Shown(address), err)
	case err != nil:
		return fault.New(fault.Conflict, "Choose another destination, or an empty one.",
			"mirror to %s: there is a manifest that is not believed: %w", fetch.Shown(address), err)
	}
	ours := m.catalogue.Manifest
	switch {
	case bytes.Equal(there.Document.Raw, m.catalogue.Document.Raw) || there.Manifest.Serial < ours.Serial:
		return nil
	case there.Manifest.Serial == ours.Serial:
		return fault.New(fault.Conflict, "Choose another destination. One of the two is not what its publisher meant: ask them.",
			"mirror to %s: another manifest with the same serial %d is there", fetch.Shown(address), ours.Serial)
	}
	return fault.New(fault.Conflict, "Choose another destination.",
		"mirror to %s: a newer release %s (serial %d, this one is %d) is there", fetch.Shown(address), there.Manifest.Release, there.Manifest.Serial, ours.Serial)
}

// fill copies the assets and then, each only when all before it is there, what is
// signed: the manifest is last.
func (m *mirroring) fill(ctx context.Context, dir string) error {
	absent, err := m.look(ctx, dir)
	if err != nil {
		return err
	}
	for _, asset := range absent {
		if err := m.copyAsset(ctx, dir, asset); err != nil {
			return err
		}
	}
	for _, blob := range m.content.documents {
		if err := m.copyDocument(ctx, dir, blob); err != nil {
			return err
		}
	}
	for _, item := range m.content.signed {
		if err := m.putSigned(dir, item); err != nil {
			return err
		}
	}
	return nil
}

// look verifies what is there, and that there is space for the rest.
func (m *mirroring) look(ctx context.Context, dir string) (absent []manifest.Asset, err error) {
	var need int64
	for _, asset := range m.content.assets {
		complete := true
		for _, blob := range []manifest.Blob{asset.Index, asset.Archive} {
			there, err := m.isThere(ctx, filepath.Join(dir, blob.File), blob.Digest)
			if err != nil {
				return nil, err
			}
			if there {
				m.arrived(blob.Size)
				continue
			}
			complete = false
			need += blob.Size - partSize(dir, blob)
		}
		if !complete {
			absent = append(absent, asset)
		}
	}
	for _, blob := range m.content.documents {
		need += blob.Size // few, and small: counted whether there or not
	}
	return absent, reserve(dir, need)
}

// copyDocument copies a file that describes an image.
func (m *mirroring) copyDocument(ctx context.Context, dir string, blob manifest.Blob) error {
	path := filepath.Join(dir, blob.File)
	there, err := m.isThere(ctx, path, blob.Digest)
	if err != nil {
		return err
	}
	if there {
		m.arrived(blob.Size)
		return nil
	}
	raw, err := getBlob(ctx, m.places, blob)
	if err != nil {
		return err
	}
	return m.put(dir, blob.File, raw)
}

// isThere compares a file with its digest. A file of other bytes is not ours to
// replace.
func (m *mirroring) isThere(ctx context.Context, path string, want manifest.Digest) (bool, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	if info.Mode().IsRegular() && info.Size() == want.Size {
		sum := sha256.New()
		if _, err := io.Copy(sum, &during{ctx, file, func(n int64) { m.progress.at(m.behind + n) }, 0}); err != nil {
			return false, fmt.Errorf("verify %s: %w", path, err)
		}
		if hex.EncodeToString(sum.Sum(nil)) == want.SHA256 {
			return true, nil
		}
	}
	return false, fault.New(fault.Conflict, "Published files are never replaced. Remove it if it is damaged.",
		"mirror to %s: other bytes are there than the manifest names", path)
}

// copyAsset copies the index and then the archive, whose frames it describes.
func (m *mirroring) copyAsset(ctx context.Context, dir string, asset manifest.Asset) error {
	raw, index, err := getIndex(ctx, m.places, asset)
	if err != nil {
		return err
	}
	if there, err := m.isThere(ctx, filepath.Join(dir, asset.Index.File), asset.Index.Digest); err != nil {
		return err
	} else if !there {
		if err := m.put(dir, asset.Index.File, raw); err != nil {
			return err
		}
	}
	if there, err := m.isThere(ctx, filepath.Join(dir, asset.Archive.File), asset.Archive.Digest); err != nil || there {
		return err
	}
	part, err := openPart(partName(dir, asset.Archive.File))
	if err != nil {
		return err
	}
	from := newArchive(m.places, asset, index)
	defer from.close()
	if err := m.copyArchive(ctx, part, from); err != nil {
		return errors.Join(err, part.Close()) // the next run goes on with it
	}
	return m.place(part, filepath.Join(dir, asset.Archive.File))
}

// copyArchive goes on behind the last right frame of the part.
func (m *mirroring) copyArchive(ctx context.Context, part *os.File, from *archive) error {
	at, err := resume(ctx, part, from)
	if err != nil {
		return err
	}
	if err := part.Truncate(at); err != nil {
		return err
	}
	m.arrived(at)
	for {
		data, err := from.frame(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if fault.CodeOf(err) == fault.Trust && from.next == len(from.index.Frames) {
			return errors.Join(err, part.Truncate(0)) // right frames of a wrong whole
		}
		if err != nil {
			return err
		}
		if _, err := part.WriteAt(data, at); err != nil {
			return fmt.Errorf("write %s: %w", part.Name(), err)
		}
		at += int64(len(data))
		m.copied += int64(len(data))
		m.arrived(int64(len(data)))
	}
}

func (m *mirroring) arrived(n int64) {
	m.behind += n
	m.progress.at(m.behind)
}

// resume reads the frames that an earlier run left, and returns where the first
// wrong or missing one begins.
func resume(ctx context.Context, part *os.File, from *archive) (int64, error) {
	var buffer []byte
	for _, f := range from.index.Frames {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if int64(cap(buffer)) < f.Length {
			buffer = make([]byte, f.Length)
		}
		data := buffer[:f.Length]
		if n, err := part.ReadAt(data, f.Offset); int64(n) < f.Length {
			if errors.Is(err, io.EOF) {
				return f.Offset, nil
			}
			return 0, err
		}
		if digest(data) != f.Compressed {
			return f.Offset, nil
		}
		from.skip(data)
	}
	return from.index.ArchiveSize(), nil
}

// putSigned writes a signed file or a signature. A key list of a version never
// changes; the manifest and its signatures may.
func (m *mirroring) putSigned(dir string, item item) error {
	there, err := os.ReadFile(filepath.Join(dir, item.name))
	switch {
	case err == nil && bytes.Equal(there, item.data):
		return nil
	case err == nil && item.final:
		return fault.New(fault.Conflict, "Choose another destination. One of the two is not what its publisher meant: ask them.",
			"mirror to %s: another %s is there", dir, item.name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return m.put(dir, item.name, item.data)
}

// put writes a small file as a whole.
func (m *mirroring) put(dir, name string, data []byte) error {
	part, err := openPart(partName(dir, name))
	if err != nil {
		return err
	}
	if err = part.Truncate(0); err == nil {
		_, err = part.WriteAt(data, 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", part.Name(), err), part.Close())
	}
	m.copied += int64(len(data))
	m.arrived(int64(len(data)))
	return m.place(part, filepath.Join(dir, name))
}

// place lets everybody read the file: whoever serves the folder may be another user.
func (m *mirroring) place(part *os.File, path string) error {
	if err := part.Chmod(0o644); err != nil {
		return errors.Join(err, part.Close())
	}
	return place(part, path)
}

// partName is the name of a file that grows. No published file begins with a dot.
func partName(dir, file string) string { return filepath.Join(dir, "."+file+".part") }

func partSize(dir string, blob manifest.Blob) int64 {
	info, err := os.Lstat(partName(dir, blob.File))
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return min(info.Size(), blob.Size)
}

// during is a reader that ends with a context and says how far it is.
type during struct {
	ctx  context.Context
	src  io.Reader
	tell func(n int64)
	n    int64
}

// Read passes bytes on while the context lives.
func (d *during) Read(p []byte) (int, error) {
	if d.ctx.Err() != nil {
		return 0, context.Cause(d.ctx)
	}
	n, err := d.src.Read(p)
	d.n += int64(n)
	d.tell(d.n)
	return n, err
}
