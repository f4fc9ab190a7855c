// Package fetch opens published bytes by address: a path, a file:// URL, or an
// http(s) URL.
//
// Output is a stream that ends with a clear error instead of hanging or ending
// short. Nothing of what it delivers is verified: the reader of the stream does
// that. Nothing is kept on disk.
package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// Defaults of Options. There is no limit on the whole time: 1 GiB over a slow
// line takes hours and is fine. 1 KiB/s for half a minute is a dead connection.
const (
	defaultStall = 30 * time.Second
	defaultFloor = 1 << 10 // bytes a second
)

// ErrUnreachable is wrapped by the error for a server that gave no answer at all.
var ErrUnreachable = errors.New("no answer")

// Options are what a Source may be told. The zero value is right for users.
type Options struct {
	// Transport replaces the standard one, which honours the proxy environment
	// variables and the host's CA certificates (SSL_CERT_FILE included).
	Transport http.RoundTripper
	Stall     time.Duration // longest wait for an answer, and the span the rate is measured over
	Floor     int64         // bytes a second that a stream has to deliver at least
	UserAgent string

	// Wait waits before another attempt, and Jitter (0 to 1) spreads such waits.
	// Nil: real ones. Tests put theirs here.
	Wait   func(ctx context.Context, d time.Duration) error
	Jitter func() float64
}

// Source opens addresses. It is safe for use by several goroutines.
type Source struct {
	client *http.Client
	stall  time.Duration
	floor  int64
	agent  string
}

// New makes a Source.
func New(o Options) *Source {
	s := &Source{stall: o.Stall, floor: o.Floor, agent: o.UserAgent}
	if s.stall <= 0 {
		s.stall = defaultStall
	}
	if s.floor <= 0 {
		s.floor = defaultFloor
	}
	if s.agent == "" {
		s.agent = "smolvm"
	}
	transport := o.Transport
	if transport == nil {
		transport = newTransport(s.stall)
	}
	s.client = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	return s
}

// Open starts to deliver the bytes at address. Size is -1 when it is not known
// beforehand. The stream holds ctx: cancelling it ends a Read. An error for
// something that is not there satisfies errors.Is(err, fs.ErrNotExist).
func (s *Source) Open(ctx context.Context, address string) (stream io.ReadCloser, size int64, err error) {
	scheme, rest, ok := strings.Cut(address, "://")
	switch {
	case !ok:
		return openFile(address)
	case scheme == "file":
		name, err := filePath(address)
		if err != nil {
			return nil, 0, err
		}
		return openFile(name)
	case scheme == "http" || scheme == "https":
		return s.openHTTP(ctx, address)
	}
	return nil, 0, fault.New(fault.Usage, "Use a path, file://, http:// or https://.",
		"open %s://%s: this kind of address is not supported", scheme, rest)
}

// Get reads all bytes at address, at most limit.
func (s *Source) Get(ctx context.Context, address string, limit int64) ([]byte, error) {
	stream, size, err := s.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	if size > limit {
		return nil, tooLarge(address, limit)
	}
	data, err := io.ReadAll(io.LimitReader(stream, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, tooLarge(address, limit)
	}
	if looksLikeHTML(data) {
		return nil, htmlPage(address)
	}
	return data, nil
}

// Beside is the address of another file in the folder that address is in.
func Beside(address, file string) string {
	if !strings.Contains(address, "://") {
		return filepath.Join(filepath.Dir(address), file)
	}
	u, err := url.Parse(address)
	if err != nil { // Open has refused such an address before
		return address
	}
	u.Path, u.RawPath = path.Join("/", path.Dir(u.Path), file), ""
	u.RawQuery, u.Fragment = "", ""
	return u.String()
}

// Shown is the address without a password in it, for messages.
func Shown(address string) string {
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return u.Redacted()
	}
	return address
}

func openFile(name string) (io.ReadCloser, int64, error) {
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

func tooLarge(address string, limit int64) error {
	return fault.New(fault.Network, "Check the address: this is not the file that SmolVM looks for.",
		"download %s: it is larger than the %d bytes allowed", Shown(address), limit)
}

// looksLikeHTML recognizes the pages that captive portals, proxies and object
// stores send in place of a file.
func looksLikeHTML(data []byte) bool {
	head := bytes.ToLower(bytes.TrimSpace(data[:min(len(data), 512)]))
	return bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html"))
}

func htmlPage(address string) error {
	return fault.New(fault.Network, "A login page, a proxy or a wrong address answered. Open the address in a browser to see which.",
		"download %s: the server sent a web page instead of the file", Shown(address))
}

// failed wraps what went wrong with an address that was being read.
func failed(address, hint, format string, args ...any) error {
	return fault.New(fault.Network, hint, "download %s: %w", Shown(address), fmt.Errorf(format, args...))
}
