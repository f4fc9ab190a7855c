package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Push publishes files under a tag: first every blob that is not there yet, at
// last the OCI manifest. A blob that is there is left alone: its name is its
// digest. The tag is moved; whether it may be is the caller's business. Progress
// hears of each file's bytes as they are sent and of whole files that were there.
func (c *Client) Push(ctx context.Context, reference string, files []File, stall time.Duration, progress func(file string, done, total int64)) error {
	r, _, err := Parse(reference)
	switch {
	case err != nil:
		return err
	case r.digest != "":
		return fmt.Errorf("%w %q: files are pushed under a tag, not a digest", ErrReference, r.text)
	}
	if err := check(files); err != nil {
		return err
	}
	admitted, err := c.enter(ctx, r, transport.PushScope)
	if err != nil {
		return err
	}
	p := pusher{c: c, r: r, admitted: admitted, stall: stall, progress: progress}
	if err := p.blob(ctx, emptyFile()); err != nil {
		return fmt.Errorf("push to %s: %w", r.text, err)
	}
	for _, f := range files {
		if err := p.blob(ctx, f); err != nil {
			return fmt.Errorf("push %s to %s: %w", f.Name, r.text, err)
		}
	}
	if err := p.manifest(ctx, files); err != nil {
		return fmt.Errorf("push the OCI manifest of %s: %w", r.text, err)
	}
	c.forget(r)
	return nil
}

// emptyFile is the configuration that OCI wants; progress does not hear of it.
func emptyFile() File {
	return File{Size: int64(len(emptyText)), SHA256: emptySHA256, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(emptyText)), nil
	}}
}

// forget drops what was known of a reference before it was pushed.
func (c *Client) forget(r Reference) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.manifests, r.manifestURL())
}

// pusher is one push to a repository.
type pusher struct {
	c        *Client
	r        Reference
	admitted http.RoundTripper
	stall    time.Duration
	progress func(file string, done, total int64)
}

// blob sends a file's bytes unless the registry has them.
func (p pusher) blob(ctx context.Context, f File) error {
	there, err := p.has(ctx, f)
	if err != nil {
		return err
	}
	if !there {
		if err := p.upload(ctx, f); err != nil {
			return err
		}
	}
	p.tell(f, f.Size)
	return nil
}

func (p pusher) tell(f File, done int64) {
	if p.progress != nil && f.Name != "" {
		p.progress(f.Name, done, f.Size)
	}
}

func (p pusher) has(ctx context.Context, f File) (bool, error) {
	response, err := p.send(ctx, http.MethodHead, p.r.blobURL(f.SHA256), nil, 0, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return false, err
	}
	response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return false, nil
	}
	if response.ContentLength >= 0 && response.ContentLength != f.Size {
		return false, fmt.Errorf("%w blob sha256:%s in the registry: it has %d bytes, the file %d", ErrInvalid, f.SHA256, response.ContentLength, f.Size)
	}
	return true, nil
}

// upload opens an upload, sends the bytes in one piece and closes it by naming
// the digest, which the registry checks.
func (p pusher) upload(ctx context.Context, f File) error {
	response, err := p.send(ctx, http.MethodPost, p.r.url("blobs", "uploads/"), nil, 0, http.StatusAccepted)
	if err != nil {
		return err
	}
	response.Body.Close()
	where, err := p.location(response)
	if err != nil {
		return err
	}
	if where, err = p.stream(ctx, f, where); err != nil {
		return err
	}
	query := where.Query()
	query.Set("digest", "sha256:"+f.SHA256)
	where.RawQuery = query.Encode()
	if response, err = p.send(ctx, http.MethodPut, where.String(), nil, 0, http.StatusCreated); err != nil {
		return err
	}
	return response.Body.Close()
}

// stream sends the bytes and gives the address at which the upload goes on.
func (p pusher) stream(ctx context.Context, f File, to *url.URL) (*url.URL, error) {
	content, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body := &outgoing{content: io.LimitReader(content, f.Size), sent: func(done int64) { p.tell(f, done) }, stall: p.stall}
	body.watch = time.AfterFunc(p.stall, func() {
		cancel(&url.Error{Op: "Patch", URL: to.Redacted(), Err: fmt.Errorf("the registry took nothing for %v", p.stall)})
	})
	defer body.stop()
	response, err := p.send(ctx, http.MethodPatch, to.String(), body, f.Size, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	response.Body.Close()
	if response.Header.Get("Location") == "" {
		return to, nil
	}
	return p.location(response)
}

// location is where an upload goes on; it is held to the rules for redirects.
func (p pusher) location(response *http.Response) (*url.URL, error) {
	where, err := response.Location()
	if err != nil {
		return nil, fmt.Errorf("%w answer: an upload without an address: %w", ErrInvalid, err)
	}
	if err := p.c.redirect(&http.Request{URL: where}, []*http.Request{response.Request}); err != nil {
		return nil, err
	}
	return where, nil
}

// outgoing is a body that is being sent. The transport may go on reading it for
// a moment after its request has failed.
type outgoing struct {
	stall time.Duration
	watch *time.Timer

	mu      sync.Mutex
	content io.Reader
	sent    func(done int64)
	done    int64
}

func (o *outgoing) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.content == nil {
		return 0, io.ErrClosedPipe
	}
	n, err := o.content.Read(p)
	if err == io.EOF { // all is out: now the registry may take its time
		o.watch.Stop()
	} else {
		o.watch.Reset(o.stall)
	}
	o.done += int64(n)
	o.sent(o.done)
	return n, err
}

// stop ends the use of the file and of the progress function.
func (o *outgoing) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.content = nil
	o.watch.Stop()
}

// manifest writes the OCI manifest, which makes the files visible.
func (p pusher) manifest(ctx context.Context, files []File) error {
	raw, err := writeManifest(files)
	if err != nil {
		return err
	}
	response, err := p.send(ctx, http.MethodPut, p.r.manifestURL(), bytes.NewReader(raw), int64(len(raw)), http.StatusCreated)
	if err != nil {
		return err
	}
	response.Body.Close()
	hash := sha256.Sum256(raw)
	if digest := response.Header.Get("Docker-Content-Digest"); digest != "" && digest != "sha256:"+hex.EncodeToString(hash[:]) {
		return fmt.Errorf("%w answer: the registry stored %.80q instead of sha256:%x", ErrInvalid, digest, hash)
	}
	return nil
}

func (p pusher) send(ctx context.Context, method, to string, body io.Reader, size int64, expected ...int) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return nil, err
	}
	request.ContentLength = size
	switch method {
	case http.MethodPut:
		if body != nil {
			request.Header.Set("Content-Type", manifestType)
		}
	case http.MethodPatch:
		request.Header.Set("Content-Type", "application/octet-stream")
	}
	return p.c.do(p.admitted, request, expected...)
}
