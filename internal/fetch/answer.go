package fetch

import (
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// judge refuses every answer that is not the stored bytes that were asked for.
func (q question) judge(r *http.Response) (part, error) {
	if r.StatusCode != http.StatusOK && r.StatusCode != http.StatusPartialContent {
		return part{}, q.refused(r)
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return part{}, failed(never, q.address, "The server or a proxy has to send the file as it is stored.",
			"the bytes were packed again on the way (Content-Encoding: %.40q)", encoding)
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case kind == "text/html":
		return part{}, htmlPage(q.address)
	case r.StatusCode == http.StatusPartialContent:
		return q.judgePart(r, kind)
	}
	found := part{address: q.address, body: r.Body, want: r.ContentLength, size: r.ContentLength}
	return found, q.unchanged(r, found.size)
}

// judgePart takes a 206 only when it is exactly the span.
func (q question) judgePart(r *http.Response, kind string) (part, error) {
	const hint = "The server's answers to range requests are wrong: use another mirror."
	if q.span.whole() {
		return part{}, failed(never, q.address, hint, "the server answers %s, though the whole file was asked for", r.Status)
	}
	if kind == "multipart/byteranges" {
		return part{}, failed(whole, q.address, hint, "the server answers with several parts (%s), though %v were asked for", kind, q.span)
	}
	first, last, size, err := parseContentRange(r.Header.Get("Content-Range"))
	if err != nil {
		return part{}, failed(whole, q.address, hint, "%w", err)
	}
	if err := q.unchanged(r, size); err != nil {
		return part{}, err
	}
	want := q.span.length(size)
	switch {
	case want < 0:
		return part{}, shorter(q.address, size, q.span)
	case first != q.span.From || last-first+1 != want || r.ContentLength >= 0 && r.ContentLength != want:
		return part{}, failed(whole, q.address, hint, "the server answers with the bytes %d to %d of %d (Content-Length %d), though %v were asked for",
			first, last, size, r.ContentLength, q.span)
	}
	return part{address: q.address, body: r.Body, from: first, want: want, size: size}, nil
}

// refused explains the statuses that bring no bytes.
func (q question) refused(r *http.Response) error {
	if r.StatusCode != http.StatusRequestedRangeNotSatisfiable || q.span.whole() {
		return statusFailed(q.address, r.StatusCode, r.Header, r.Status)
	}
	if size, err := parseUnsatisfied(r.Header.Get("Content-Range")); err == nil {
		if err := q.unchanged(r, size); err != nil {
			return err
		}
		if q.span.length(size) < 0 {
			return shorter(q.address, size, q.span)
		}
	}
	return failed(whole, q.address, "The server's answers to range requests are wrong: use another mirror.",
		"the server answers %s, though only %v were asked for", r.Status, q.span)
}

// statusFailed explains an HTTP status that is no success.
func statusFailed(address string, code int, header http.Header, status string) error {
	switch {
	case code == http.StatusNotFound || code == http.StatusGone:
		return failed(never, address, "Check the address, and whether the publisher still offers it.", "the server answers %s: %w", status, fs.ErrNotExist)
	case code == http.StatusForbidden:
		return failed(never, address, "The server wants a login, or does not have the file.", "%w", forbidden(status))
	case code == http.StatusUnauthorized:
		return failed(never, address, "The server wants a login, or does not have the file.", "the server answers %s", status)
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return busy(address, header, status)
	case code >= 500 && code != http.StatusNotImplemented && code != http.StatusHTTPVersionNotSupported, code == http.StatusRequestTimeout, code == http.StatusTooEarly:
		return failed(again, address, "Try again later, or use another mirror.", "the server answers %s", status)
	}
	return failed(never, address, "Try again later, or use another mirror.", "the server answers %s", status)
}

// forbidden is a status that satisfies errors.Is(err, ErrForbidden).
type forbidden string

func (status forbidden) Error() string { return "the server answers " + string(status) }
func (forbidden) Is(target error) bool { return target == ErrForbidden }

// busy is a server that wants to be asked later, and may say when.
func busy(address string, header http.Header, status string) error {
	t := &trouble{remedy: again, err: fmt.Errorf("the server answers %s", status)}
	value := header.Get("Retry-After")
	if value == "" {
		return failure(address, "The server is busy: try again later.", t)
	}
	t.err = fmt.Errorf("the server answers %s, Retry-After: %.40q", status, value)
	t.after = retryAfter(value, serverTime(header))
	return failure(address, fmt.Sprintf("The server asks to try again after %.40q (seconds or a date).", value), t)
}

// serverTime is when the server says it answered; its Retry-After dates are by
// the same clock, which ours may be years away from.
func serverTime(header http.Header) time.Time {
	if t, err := http.ParseTime(header.Get("Date")); err == nil {
		return t
	}
	return time.Now()
}

// retryAfter reads the header's two forms. What is neither counts as not said.
func retryAfter(value string, now time.Time) time.Duration {
	const longest = 1 << 31 // seconds; more would overflow, and is never waited for
	value = strings.TrimSpace(value)
	if seconds, ok := number(value); ok {
		return time.Duration(min(seconds, longest)) * time.Second
	}
	if isDigits(value) { // more than an int64 holds
		return longest * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(date.Sub(now), 0), longest*time.Second)
	}
	return 0
}

// parseContentRange reads "bytes FIRST-LAST/SIZE" and nothing looser.
func parseContentRange(value string) (first, last, size int64, err error) {
	span, total, ok := strings.Cut(strings.TrimPrefix(value, "bytes "), "/")
	from, to, ok2 := strings.Cut(span, "-")
	first, ok3 := number(from)
	last, ok4 := number(to)
	size, ok5 := number(total)
	if !strings.HasPrefix(value, "bytes ") || !ok || !ok2 || !ok3 || !ok4 || !ok5 || first > last || last >= size {
		return 0, 0, 0, fmt.Errorf("the server answers with a part, but does not say which (Content-Range: %.80q)", value)
	}
	return first, last, size, nil
}

// parseUnsatisfied reads the "bytes */SIZE" of a 416.
func parseUnsatisfied(value string) (size int64, err error) {
	total, ok := strings.CutPrefix(value, "bytes */")
	size, ok2 := number(total)
	if !ok || !ok2 {
		return 0, fmt.Errorf("the server does not say how long the file is (Content-Range: %.80q)", value)
	}
	return size, nil
}

// number reads plain decimal digits.
func number(text string) (int64, bool) {
	if !isDigits(text) {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

func isDigits(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}
