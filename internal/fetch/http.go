package fetch

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// maxRedirects is what download sites need at most: a shortener, a mirror
// choice, an object store.
const maxRedirects = 5

func newTransport(stall time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: stall, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   stall,
		ResponseHeaderTimeout: stall,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   8,
		// The digests are those of the stored bytes: nobody may pack them again.
		DisableCompression: true,
	}
}

// openHTTP sends the request. The stream owns the request's context; its Close
// ends the connection.
func (s *Source) openHTTP(ctx context.Context, address string) (io.ReadCloser, int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	response, err := s.get(ctx, address)
	if err != nil {
		cancel(nil)
		return nil, 0, err
	}
	stream := &stream{
		address: address, body: response.Body, size: response.ContentLength,
		cancel: cancel, cause: func() error { return context.Cause(ctx) }, stall: s.stall, floor: s.floor,
	}
	return stream, response.ContentLength, nil
}

func (s *Source) get(ctx context.Context, address string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, failed(address, "Check the address.", "%w", withoutURL(err))
	}
	request.Header.Set("User-Agent", s.agent)
	request.Header.Set("Accept-Encoding", "identity")
	response, err := s.client.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, fmt.Errorf("download %s: %w", Shown(address), cause)
		}
		return nil, notAnswered(address, err)
	}
	if err := checkResponse(address, response); err != nil {
		response.Body.Close()
		return nil, err
	}
	return response, nil
}

// notAnswered tells a server that could not be asked from one whose redirects
// were refused.
func notAnswered(address string, err error) error {
	var refused *redirectError
	if errors.As(err, &refused) {
		return failed(address, "The server sends its visitors elsewhere: use the address it should have, or another mirror.", "%w", refused)
	}
	return failed(address, hintFor(err), "%w: %w", ErrUnreachable, withoutURL(err))
}

// checkResponse refuses every answer that is not the stored bytes.
func checkResponse(address string, r *http.Response) error {
	switch code := r.StatusCode; {
	case code == http.StatusNotFound || code == http.StatusGone:
		return failed(address, "Check the address, and whether the publisher still offers it.", "the server answers %s: %w", r.Status, fs.ErrNotExist)
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return failed(address, busyHint(r), "the server answers %s", r.Status)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return failed(address, "The server wants a login, or does not have the file.", "the server answers %s", r.Status)
	case code != http.StatusOK:
		return failed(address, "Try again later, or use another mirror.", "the server answers %s", r.Status)
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return failed(address, "The server or a proxy has to send the file as it is stored.", "the bytes were packed again on the way (Content-Encoding: %.40q)", encoding)
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "text/html" {
		return htmlPage(address)
	}
	return nil
}

func busyHint(r *http.Response) string {
	if after := r.Header.Get("Retry-After"); after != "" {
		return fmt.Sprintf("The server asks to try again after %.40q (seconds or a date).", after)
	}
	return "The server is busy: try again later."
}

// redirectError is a redirect that is not followed.
type redirectError struct{ reason string }

func (e *redirectError) Error() string { return e.reason }

func refuse(format string, args ...any) error {
	return &redirectError{fmt.Sprintf(format, args...)}
}

// checkRedirect bounds redirects and refuses those that would lose a guarantee:
// from TLS to none, and from elsewhere into this computer or its network.
func checkRedirect(next *http.Request, via []*http.Request) error {
	from, to := via[len(via)-1].URL, next.URL
	switch {
	case len(via) > maxRedirects:
		return refuse("more than %d redirects", maxRedirects)
	case to.Scheme != "https" && to.Scheme != "http":
		return refuse("redirect to %s refused", to.Redacted())
	case from.Scheme == "https" && to.Scheme != "https":
		return refuse("redirect from https to %s refused", to.Redacted())
	case isInside(to.Hostname()) && !isInside(via[0].URL.Hostname()):
		return refuse("redirect into the local network (%s) refused", to.Redacted())
	}
	return nil
}

// isInside recognizes this computer and private networks by address. Names that
// resolve to such addresses are left to the resolver's own protections.
func isInside(host string) bool {
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()
}

// withoutURL drops the method and address that net/http puts before its errors:
// ours are already there.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

func hintFor(err error) string {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &dns):
		return "The host's name cannot be resolved: check the address and this computer's network."
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Nothing listens there: check the address, and that the server runs."
	case errors.As(err, &authority):
		return "If a proxy intercepts TLS here, name its CA certificate with SSL_CERT_FILE."
	case errors.As(err, &timeout) && timeout.Timeout():
		return "The server does not answer: check this computer's network, or use another mirror."
	}
	return "Check the address and this computer's network and proxy settings."
}
