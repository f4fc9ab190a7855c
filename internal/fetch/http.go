package fetch

import (
	"context"
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout = 10 * time.Second // another place may be better by then
	// commitTimeout bounds how long a registry takes to put a pushed blob where it
	// belongs. Downloads have a shorter limit of their own.
	commitTimeout = 5 * time.Minute

	readBuffer = 64 << 10 // larger reads go past it
	maxHeader  = 256 << 10
)

// newTransport speaks HTTP/1.1 only: spans that are asked for at the same time
// have to travel over connections of their own, each with its own TCP window,
// where HTTP/2 would put all of them into one.
func newTransport(stall time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: min(stall, dialTimeout), KeepAlive: 15 * time.Second}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            guarded(dialer.DialContext),
		Protocols:              protocols,
		TLSHandshakeTimeout:    min(stall, dialTimeout),
		ResponseHeaderTimeout:  commitTimeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    8,
		ReadBufferSize:         readBuffer,
		MaxResponseHeaderBytes: maxHeader,
		// The digests are those of the stored bytes: nobody may pack them again.
		DisableCompression: true,
	}
}

// target is where and how the bytes of an address are asked for.
type target struct {
	client *http.Client
	url    string
}

// askHTTP sends the request. The stream owns the request's context; its Close
// ends the connection.
func (s *Source) askHTTP(ctx context.Context, q question, t target) (*Stream, validator, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(s.stall, func() { cancel(errSlow) })
	response, err := s.request(ctx, q, t)
	if !watch.Stop() || err != nil {
		if err == nil {
			response.Body.Close()
			err = s.notAnswered(ctx, q.address, errSlow)
		}
		cancel(nil)
		return nil, validator{}, err
	}
	found, err := q.judge(response)
	if err != nil {
		cancel(nil)
		response.Body.Close()
		return nil, validator{}, err
	}
	return s.stream(ctx, cancel, found), validatorOf(response, found.size), nil
}

func (s *Source) request(ctx context.Context, q question, t target) (*http.Response, error) {
	request, err := http.NewRequestWithContext(withTrail(ctx), http.MethodGet, t.url, nil)
	if err != nil {
		return nil, failed(never, q.address, "Check the address.", "%w", withoutURL(err))
	}
	request.Header.Set("User-Agent", s.agent)
	request.Header.Set("Accept-Encoding", "identity")
	if !q.span.whole() {
		request.Header.Set("Range", q.span.header())
		if strong := q.known.strong(); strong != "" {
			request.Header.Set("If-Range", strong)
		}
	}
	response, err := t.client.Do(request)
	if err != nil {
		return nil, s.notAnswered(ctx, q.address, err)
	}
	return response, nil
}
