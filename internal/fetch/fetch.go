// Package fetch opens published bytes by address: a path, a file:// URL, an
// http(s) URL, or a file in an OCI registry (oci://host/repo:tag#file).
//
// Output is a stream of a file or of a span of it that ends with a clear error
// instead of hanging or ending short. Source asks one address; Mirrors asks the
// places that publish the same files, waits and tries again where that may help.
// Nothing of what it delivers is verified: the reader of the stream does that,
// and strikes out the place that served wrong bytes. Nothing is kept on disk, so
// nothing is left after a crash.
package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fetch/oci"
)

// Defaults of Options. There is no limit on the whole time: 1 GiB over a slow
// line takes hours and is fine. 1 KiB/s for half a minute is a dead connection.
const (
	defaultStall = 30 * time.Second
	defaultFloor = 1 << 10 // bytes a second
)

// Errors that callers tell apart.
var (
	ErrUnreachable = errors.New("no answer")             // the server could not be asked at all
	ErrForbidden   = errors.New("forbidden")             // as object stores answer for what is not there, too
	ErrChanged     = errors.New("changed on the server") // not the file it was when the download began
)

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
	transport http.RoundTripper
	client    *http.Client
	registry  *oci.Client
	stall     time.Duration
	floor     int64
	agent     string
	wait      func(context.Context, time.Duration) error
	jitter    func() float64
}

// New makes a Source.
func New(o Options) *Source {
	s := &Source{
		transport: o.Transport, stall: cmp.Or(max(o.Stall, 0), defaultStall), floor: cmp.Or(max(o.Floor, 0), defaultFloor),
		agent: cmp.Or(o.UserAgent, "smolvm"), wait: o.Wait, jitter: o.Jitter,
	}
	if s.transport == nil {
		s.transport = newTransport(s.stall)
	}
	if s.wait == nil {
		s.wait = pause
	}
	if s.jitter == nil {
		s.jitter = rand.Float64
	}
	s.client = &http.Client{Transport: s.transport, CheckRedirect: checkRedirect}
	s.registry = oci.New(s.transport, s.agent, checkRedirect)
	return s
}

// Open starts to deliver the bytes at address, in one attempt. Size is -1 when it
// is not known beforehand. The stream holds ctx: cancelling it ends a Read. An
// error for something that is not there satisfies errors.Is(err, fs.ErrNotExist).
func (s *Source) Open(ctx context.Context, address string) (stream io.ReadCloser, size int64, err error) {
	opened, err := s.OpenSpan(ctx, address, Span{})
	if err != nil {
		return nil, 0, err
	}
	return opened, opened.Size, nil
}

// Get reads all bytes at address, at most limit. It tries again a few times
// where that may help; a server that cannot be reached at all fails at once.
func (s *Source) Get(ctx context.Context, address string, limit int64) ([]byte, error) {
	m := s.Mirrors([]string{address}, event.Discard{})
	m.patience = brief
	return m.Get(ctx, "", limit, func([]byte) error { return nil })
}

// readAll reads a whole small file.
func readAll(stream *Stream, limit int64) ([]byte, error) {
	if stream.Size > limit {
		return nil, tooLarge(stream.address, limit)
	}
	data, err := io.ReadAll(io.LimitReader(stream, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, tooLarge(stream.address, limit)
	case looksLikeHTML(data):
		return nil, htmlPage(stream.address)
	}
	return data, nil
}

// Beside is the address of another file in the folder that address is in.
func Beside(address, file string) string {
	switch scheme, _, ok := strings.Cut(address, "://"); {
	case !ok:
		return filepath.Join(filepath.Dir(address), file)
	case scheme == oci.Scheme:
		return oci.Beside(address, file)
	}
	u, err := url.Parse(address)
	if err != nil { // Open has refused such an address before
		return address
	}
	u.Path, u.RawPath = path.Join("/", path.Dir(u.Path), file), ""
	u.RawQuery, u.Fragment = "", ""
	return u.String()
}

// Shown is the address without a password or a query in it, for messages.
func Shown(address string) string {
	u, err := url.Parse(address)
	switch scheme, rest, isURL := strings.Cut(address, "://"); {
	case !isURL:
		return address
	case err != nil: // nobody knows what its parts are
		rest, _, _ = strings.Cut(rest, "?")
		return scheme + "://" + rest[strings.LastIndex(rest, "@")+1:]
	case u.User == nil && (u.RawQuery == "" || scheme == "file"):
		return address
	}
	u.RawQuery = ""
	return u.Redacted()
}

func tooLarge(address string, limit int64) error {
	return failed(never, address, "Check the address: this is not the file that SmolVM looks for.",
		"it is larger than the %d bytes allowed", limit)
}

// looksLikeHTML recognizes the pages that captive portals, proxies and object
// stores send in place of a file.
func looksLikeHTML(data []byte) bool {
	head := bytes.ToLower(bytes.TrimSpace(data[:min(len(data), 512)]))
	return bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html"))
}

func htmlPage(address string) error {
	return failed(never, address, "A login page, a proxy or a wrong address answered. Open the address in a browser to see which.",
		"the server sent a web page instead of the file")
}
