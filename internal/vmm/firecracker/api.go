package firecracker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxRequest is the longest body Firecracker takes; it drops the connection of
	// who sends more.
	maxRequest = 51200
	// maxAnswer bounds one whole answer. The longest there is, the configuration of
	// a machine, has a few thousand bytes.
	maxAnswer = 256 << 10
	// callTime bounds a call whose context has no deadline. All but snapshots take
	// milliseconds on an idle host.
	callTime = 30 * time.Second
)

// refusal is Firecracker's answer to a request that it did not carry out.
type refusal struct {
	Status int
	Text   string
}

// Error is Firecracker's own text.
func (r *refusal) Error() string { return r.Text }

// errProtocol is in the error of an answer that is none of Firecracker's API. The
// connection it came on is closed: what follows on it could be anything.
var errProtocol = errors.New("not an answer of Firecracker's API")

// client speaks Firecracker's API over its Unix socket, one request at a time. A
// connection is kept for the next call, and dropped after anything unexpected.
type client struct {
	dial func(context.Context) (net.Conn, error)

	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
	left *io.LimitedReader // what the answer may still take; in reads through it
}

func newClient(socket string) *client {
	return &client{dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
}

// get asks for path and decodes the answer into result. object is what it is about.
func (c *client) get(ctx context.Context, path, object string, result any) error {
	return c.call(ctx, http.MethodGet, path, object, nil, result)
}

// put sends body to path.
func (c *client) put(ctx context.Context, path, object string, body any) error {
	return c.call(ctx, http.MethodPut, path, object, body, nil)
}

// patch changes what is at path.
func (c *client) patch(ctx context.Context, path, object string, body any) error {
	return c.call(ctx, http.MethodPatch, path, object, body, nil)
}

// call makes one request. Its error names what was asked and of which object.
func (c *client) call(ctx context.Context, method, path, object string, body, result any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := within(ctx, callTime)
	defer cancel()
	said, err := c.exchange(ctx, method, path, body)
	var refused *refusal
	switch {
	case errors.As(err, &refused):
	case err != nil:
		c.drop()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	case result != nil:
		if err = json.Unmarshal(said, result); err != nil {
			c.drop()
			err = fmt.Errorf("%w: %w", errProtocol, err)
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s with Firecracker: %w", verb(method), object, err)
	}
	return nil
}

func verb(method string) string {
	return map[string]string{http.MethodGet: "ask for", http.MethodPut: "set", http.MethodPatch: "change"}[method]
}

// within gives ctx a deadline where it has none.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer within %v", d))
}

// exchange sends a request and reads its answer; a refusal leaves the connection
// as good as it was.
func (c *client) exchange(ctx context.Context, method, path string, body any) ([]byte, error) {
	request, err := newRequest(method, path, body)
	if err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	c.left.N = maxAnswer
	said, stays, err := readAnswer(c.in, request)
	var refused *refusal
	if err == nil || errors.As(err, &refused) {
		if !stays || c.in.Buffered() > 0 || !stop() {
			c.drop() // Firecracker ends it, says more than it was asked, or ctx has just ended
		}
	}
	return said, err
}

func newRequest(method, path string, body any) (*http.Request, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	if len(text) > maxRequest {
		return nil, fmt.Errorf("the request has %d bytes, Firecracker takes %d", len(text), maxRequest)
	}
	request, err := http.NewRequest(method, "http://localhost"+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "") // none
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

func (c *client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	c.left = &io.LimitedReader{R: conn}
	c.conn, c.in = conn, bufio.NewReader(c.left)
	return nil
}

// drop ends the connection; the next call makes another.
func (c *client) drop() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// close ends the connection for good.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
}

// fault is the body of an answer that says no: of the API, or of the HTTP server
// in front of it.
type faultBody struct {
	Fault string `json:"fault_message"`
	Error string `json:"error"`
}

// readAnswer reads one answer. stays says that the connection can be used again.
func readAnswer(in *bufio.Reader, request *http.Request) (said []byte, stays bool, err error) {
	answer, err := http.ReadResponse(in, request)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errProtocol, err)
	}
	defer answer.Body.Close()
	if said, err = io.ReadAll(io.LimitReader(answer.Body, maxAnswer)); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errProtocol, err)
	}
	switch code := answer.StatusCode; {
	case code == http.StatusOK, code == http.StatusNoContent:
		return said, !answer.Close, nil
	case code >= 400 && code < 600:
		return nil, !answer.Close && code == http.StatusBadRequest, &refusal{Status: code, Text: complaint(said, answer.Status)}
	}
	return nil, false, fmt.Errorf("%w: status %.40q", errProtocol, answer.Status)
}

// complaint is what a refusing answer says, in a length that can be shown.
func complaint(said []byte, status string) string {
	const most = 1 << 10
	var body faultBody
	text := status
	if json.Unmarshal(said, &body) == nil && body.Fault+body.Error != "" {
		text = body.Fault + body.Error
	}
	return printable(text[:min(len(text), most)])
}
