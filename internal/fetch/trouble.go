package fetch

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch/oci"
)

// remedy is what may help against a trouble.
type remedy int

const (
	never remedy = iota // this place will not deliver this file
	again               // asking again, a little later
	whole               // asking for the whole file instead of a span of it
)

// trouble is why one attempt failed.
type trouble struct {
	remedy remedy
	after  time.Duration // how long the server wants to be left alone; 0: it did not say
	err    error
}

func (t *trouble) Error() string { return t.err.Error() }
func (t *trouble) Unwrap() error { return t.err }

// failed says what went wrong with an address that was being read.
func failed(r remedy, address, hint, format string, args ...any) error {
	return failure(address, hint, &trouble{remedy: r, err: fmt.Errorf(format, args...)})
}

func failure(address, hint string, t *trouble) error {
	return fault.New(fault.Network, hint, "download %s: %w", Shown(address), t)
}

// troubleOf finds what may help against an error of an attempt. An error that
// says nothing of it is final: a local file that is not there.
func troubleOf(err error) *trouble {
	var t *trouble
	if errors.As(err, &t) {
		return t
	}
	return &trouble{remedy: never, err: err}
}

// cancelled wraps why a request was ended from outside.
func cancelled(address string, cause error) error {
	return fmt.Errorf("download %s: %w", Shown(address), cause)
}

// notAnswered tells a server that could not be asked from one that was asked in
// vain: its redirects were refused, or its registry did not let us in.
func (s *Source) notAnswered(ctx context.Context, address string, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSlow):
		return failed(again, address, "The server does not answer: check this computer's network, or use another mirror.", "%w within %v", ErrUnreachable, s.stall)
	case cause != nil:
		return cancelled(address, cause)
	}
	var (
		refused *redirectError
		status  *oci.StatusError
	)
	switch {
	case errors.As(err, &refused):
		return failed(never, address, "The server sends its visitors elsewhere: use the address it should have, or another mirror.", "%w", refused)
	case errors.As(err, &status):
		return statusFailed(address, status.Code, status.Header, status.Error())
	case errors.Is(err, oci.ErrReference):
		return fault.New(fault.Usage, "Write oci://HOST[:PORT]/REPOSITORY[:TAG].", "open %s: %w", Shown(address), err)
	case errors.Is(err, oci.ErrInvalid):
		return failed(never, address, "Check the reference: it does not name a SmolVM release.", "%w", err)
	case isCertificate(err):
		return failed(never, address, hintFor(err), "%w: %w", ErrUnreachable, withoutURL(err))
	}
	return failed(again, address, hintFor(err), "%w: %w", ErrUnreachable, withoutURL(err))
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

func isCertificate(err error) bool {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	return errors.As(err, &authority) || errors.As(err, &name) || errors.As(err, &invalid)
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
