package release

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/smolvm/smolvm/internal/fetch/oci"
	"github.com/smolvm/smolvm/internal/manifest"
)

// push mirrors into an OCI registry, which shows none of the blobs before the
// manifest of its own kind that comes last.
func (m *mirroring) push(ctx context.Context, reference string) (Mirrored, error) {
	if err := m.mayReplace(ctx, reference); err != nil {
		return Mirrored{}, err
	}
	m.progress.start()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	told := map[string]int64{}
	err := m.o.Source.Push(ctx, reference, m.files(ctx, cancel), func(file string, done, _ int64) {
		m.arrived(done - told[file])
		told[file] = done
	})
	if err != nil {
		return Mirrored{}, err
	}
	return m.result(reference), nil
}

// files are everything that is pushed. Each is downloaded when its turn comes,
// and no byte is passed on that was not verified. That one cannot be had ends
// the push: to send again would not help.
func (m *mirroring) files(ctx context.Context, cancel context.CancelCauseFunc) []oci.File {
	var files []oci.File
	add := func(blob manifest.Blob, open func() (io.ReadCloser, error)) {
		asked := false
		files = append(files, oci.File{Name: blob.File, Size: blob.Size, SHA256: blob.SHA256, Open: func() (io.ReadCloser, error) {
			if !asked { // the registry does not have it
				asked = true
				m.copied += blob.Size
			}
			return open()
		}})
	}
	for _, asset := range m.content.assets {
		add(asset.Index, func() (io.ReadCloser, error) {
			raw, _, err := getIndex(ctx, m.places, asset)
			return io.NopCloser(bytes.NewReader(raw)), err
		})
		add(asset.Archive, func() (io.ReadCloser, error) {
			_, index, err := getIndex(ctx, m.places, asset)
			if err != nil {
				return nil, err
			}
			return &archiveStream{ctx: ctx, from: newArchive(m.places, asset, index), failed: cancel}, nil
		})
	}
	for _, blob := range m.content.documents {
		add(blob, func() (io.ReadCloser, error) {
			raw, err := getBlob(ctx, m.places, blob)
			if err != nil {
				cancel(err)
			}
			return io.NopCloser(bytes.NewReader(raw)), err
		})
	}
	for _, item := range m.content.signed {
		blob := manifest.Blob{File: item.name, Digest: manifest.Digest{SHA256: digest(item.data), Size: int64(len(item.data))}}
		add(blob, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(item.data)), nil })
	}
	return files
}

// archiveStream is an archive as a stream of bytes that are right.
type archiveStream struct {
	ctx    context.Context
	from   *archive
	rest   []byte
	failed func(error) // told why the archive cannot be had
}

// Read passes verified bytes on.
func (s *archiveStream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		data, err := s.from.frame(s.ctx)
		if err != nil && !errors.Is(err, io.EOF) {
			s.failed(err)
		}
		if err != nil {
			return 0, err
		}
		s.rest = data
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close gives the connection up.
func (s *archiveStream) Close() error {
	s.from.close()
	return nil
}
