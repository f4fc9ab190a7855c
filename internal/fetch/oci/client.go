package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Client talks to registries. It is safe for use by several goroutines.
type Client struct {
	base     http.RoundTripper
	redirect func(next *http.Request, via []*http.Request) error
	keychain authn.Keychain

	mu        sync.Mutex
	entered   map[entry]http.RoundTripper
	manifests map[string]map[string]blob // by their address
	turns     map[string]chan struct{}   // who asks for what just now
}

// entry is a repository and what is to be done there.
type entry struct{ repository, scope string }

// New makes a client on a transport. Redirect decides over redirects as
// http.Client's CheckRedirect does. Credentials are those of docker login.
func New(base http.RoundTripper, agent string, redirect func(*http.Request, []*http.Request) error) *Client {
	return &Client{
		base: transport.NewUserAgent(guarded{base}, agent), redirect: redirect, keychain: authn.DefaultKeychain,
		entered: map[entry]http.RoundTripper{}, manifests: map[string]map[string]blob{}, turns: map[string]chan struct{}{},
	}
}

// Location is where the bytes of a file are, and who may ask for them.
type Location struct {
	URL       string
	Size      int64             // -1: not known
	Transport http.RoundTripper // adds the registry's authorization, for this registry only
}

// StatusError is a registry's answer that is no success.
type StatusError struct {
	Code   int
	Header http.Header
	text   string
}

func (e *StatusError) Error() string { return e.text }

// NotExistError is a file that a release does not have.
type NotExistError struct{ reference, file string }

func (e *NotExistError) Error() string {
	return fmt.Sprintf("%s has no file %.200q", e.reference, e.file)
}

// Locate finds a file of a release. The OCI manifest is asked for once. A file
// that it does not name but that carries its own SHA-256 in its name, as archives
// do, is looked for by that: files of earlier releases stay in the repository.
func (c *Client) Locate(ctx context.Context, address string) (Location, error) {
	r, file, err := Parse(address)
	if err != nil {
		return Location{}, err
	}
	files, err := c.files(ctx, r)
	if err != nil {
		return Location{}, err
	}
	found, ok := files[file]
	if !ok {
		hash, ok := digestIn(file)
		if !ok {
			return Location{}, &NotExistError{r.text, file}
		}
		found = blob{sha256: hash, size: -1}
	}
	admitted, err := c.enter(ctx, r, transport.PullScope)
	if err != nil {
		return Location{}, err
	}
	return Location{URL: r.blobURL(found.sha256), Size: found.size, Transport: admitted}, nil
}

// Names are the files of a release, sorted.
func (c *Client) Names(ctx context.Context, reference string) ([]string, error) {
	r, _, err := Parse(reference)
	if err != nil {
		return nil, err
	}
	files, err := c.files(ctx, r)
	return slices.Sorted(maps.Keys(files)), err
}

// digestIn reads the digest in a name like base-amd64-<sha256>.zst.
func digestIn(file string) (string, bool) {
	stem := strings.TrimSuffix(file, path.Ext(file))
	end := strings.LastIndexByte(stem, '-')
	if end < 0 || !isSHA256(stem[end+1:]) {
		return "", false
	}
	return stem[end+1:], true
}

// files are the files of a release, by name.
func (c *Client) files(ctx context.Context, r Reference) (map[string]blob, error) {
	leave, err := c.turn(ctx, "manifest "+r.manifestURL())
	if err != nil {
		return nil, err
	}
	defer leave()
	c.mu.Lock()
	files, ok := c.manifests[r.manifestURL()]
	c.mu.Unlock()
	if ok {
		return files, nil
	}
	raw, err := c.manifest(ctx, r)
	if err != nil {
		return nil, err
	}
	if files, err = parseManifest(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", r.text, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.manifests[r.manifestURL()] = files
	return files, nil
}

// manifest fetches the OCI manifest, checked when the reference is a digest.
func (c *Client) manifest(ctx context.Context, r Reference) ([]byte, error) {
	admitted, err := c.enter(ctx, r, transport.PullScope)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.manifestURL(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", manifestType)
	response, err := c.do(admitted, request, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxManifest+1))
	switch hash := sha256.Sum256(raw); {
	case err != nil:
		return nil, fmt.Errorf("read the OCI manifest of %s: %w", r.text, err)
	case len(raw) > maxManifest:
		return nil, fmt.Errorf("%w OCI manifest of %s: larger than %d bytes", ErrInvalid, r.text, maxManifest)
	case r.digest != "" && hex.EncodeToString(hash[:]) != r.digest:
		return nil, fmt.Errorf("%w OCI manifest of %s: the registry sent one whose digest is sha256:%x", ErrInvalid, r.text, hash)
	}
	return raw, nil
}

// do sends a request and refuses every status but those expected.
func (c *Client) do(admitted http.RoundTripper, request *http.Request, expected ...int) (*http.Response, error) {
	client := http.Client{Transport: admitted, CheckRedirect: c.redirect}
	response, err := client.Do(request)
	if err != nil {
		return nil, translate(err)
	}
	for _, code := range expected {
		if response.StatusCode == code {
			return response, nil
		}
	}
	defer response.Body.Close()
	status := &StatusError{Code: response.StatusCode, Header: response.Header, text: response.Status}
	if err := transport.CheckError(response, http.StatusOK); err != nil {
		status.text = reasonOf(response.Status, err)
	}
	return nil, status
}

// enter lets us into a repository: asks the registry how it wants to be asked
// and fetches a token. The result renews its token by itself.
func (c *Client) enter(ctx context.Context, r Reference, scope string) (http.RoundTripper, error) {
	e := entry{r.repo.Name(), scope}
	leave, err := c.turn(ctx, "enter "+e.repository+" "+e.scope)
	if err != nil {
		return nil, err
	}
	defer leave()
	c.mu.Lock()
	admitted, ok := c.entered[e]
	c.mu.Unlock()
	if ok {
		return admitted, nil
	}
	who, err := authn.Resolve(ctx, c.keychain, r.repo)
	if err != nil {
		return nil, fmt.Errorf("read docker's credentials for %s: %w", r.repo.RegistryStr(), err)
	}
	admitted, err = transport.NewWithContext(ctx, r.repo.Registry, who, c.base, []string{r.repo.Scope(scope)})
	if err != nil {
		return nil, translate(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entered[e] = admitted
	return admitted, nil
}

// turn lets one goroutine at a time ask for a thing, so that the others find it
// here. Waiting ends with ctx.
func (c *Client) turn(ctx context.Context, what string) (leave func(), err error) {
	c.mu.Lock()
	mine, ok := c.turns[what]
	if !ok {
		mine = make(chan struct{}, 1)
		c.turns[what] = mine
	}
	c.mu.Unlock()
	select {
	case mine <- struct{}{}:
		return func() { <-mine }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// translate keeps the library's error types inside.
func translate(err error) error {
	var failed *transport.Error
	if errors.As(err, &failed) {
		status := fmt.Sprintf("%d %s", failed.StatusCode, http.StatusText(failed.StatusCode))
		return &StatusError{Code: failed.StatusCode, Header: http.Header{}, text: reasonOf(status, failed)}
	}
	return err
}

// reasonOf adds what the registry itself says to a status.
func reasonOf(status string, err error) string {
	var failed *transport.Error
	if !errors.As(err, &failed) || len(failed.Errors) == 0 {
		return status
	}
	return fmt.Sprintf("%s (%.200q)", status, failed.Errors[0].String())
}

// guarded refuses plain http to anything but this computer, whoever asks for it:
// the registry, a redirect or the address of a token server.
type guarded struct{ inner http.RoundTripper }

func (g guarded) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" && !isLoopback(request.URL.Hostname()) {
		return nil, fmt.Errorf("%w: plain %s to %s, which is not this computer, refused", ErrInvalid, request.URL.Scheme, request.URL.Host)
	}
	return g.inner.RoundTrip(request)
}
