package fetch

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/fault"
)

// section is a span of an open file.
type section struct {
	io.Reader
	io.Closer
}

// openFile opens a span of a local file.
func (s *Source) openFile(ctx context.Context, address, name string, span Span) (*Stream, error) {
	file, size, err := regularFile(name)
	if err != nil {
		return nil, err
	}
	want := span.length(size)
	if want < 0 {
		file.Close()
		return nil, shorter(address, size, span)
	}
	body := section{io.NewSectionReader(file, span.From, want), file}
	return s.stream(ctx, func(error) {}, part{address: address, body: body, from: span.From, want: want, size: size}), nil
}

func regularFile(name string) (*os.File, int64, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, fault.New(fault.NotFound, "Check the path.", "open %s: %w", name, fs.ErrNotExist)
	case err != nil:
		return nil, 0, fault.New(fault.NotFound, "", "%w", err)
	case !info.Mode().IsRegular(): // a FIFO would block the open
		return nil, 0, fault.New(fault.Usage, "Name the file itself.", "open %s: it is not a regular file", name)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, fault.New(fault.NotFound, "", "%w", err)
	}
	return file, info.Size(), nil
}

func filePath(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", fault.New(fault.Usage, "Write file:///PATH.", "open %s: not the address of a file on this computer", address)
	}
	return filepath.FromSlash(u.Path), nil
}
