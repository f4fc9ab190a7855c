package fetch

import (
	"net/http"
	"strings"
)

// validator is how a place tells one state of a file from another. The zero
// value is nothing known.
type validator struct {
	known    bool
	etag     string
	modified string
	size     int64 // -1: unknown
}

func validatorOf(r *http.Response, size int64) validator {
	return validator{known: true, etag: r.Header.Get("Etag"), modified: r.Header.Get("Last-Modified"), size: size}
}

// strong is what If-Range may hold: a weak tag is not enough to put two answers
// together.
func (v validator) strong() string {
	if v.etag != "" && !strings.HasPrefix(v.etag, "W/") {
		return v.etag
	}
	return v.modified
}

// differs is whether two answers were of different files, as far as both say.
func (v validator) differs(w validator) bool {
	switch {
	case !v.known || !w.known:
		return false
	case v.size >= 0 && w.size >= 0 && v.size != w.size:
		return true
	case v.etag != "" && w.etag != "":
		return strings.TrimPrefix(v.etag, "W/") != strings.TrimPrefix(w.etag, "W/")
	}
	return v.modified != "" && w.modified != "" && v.modified != w.modified
}

// unchanged refuses an answer of another file than the one whose first bytes are
// already here.
func (q question) unchanged(r *http.Response, size int64) error {
	if !q.known.differs(validatorOf(r, size)) {
		return nil
	}
	return failed(never, q.address, "The publisher replaced the file, or two servers behind this address hold different ones: try again, or use another mirror.",
		"the file %w while it was downloaded (size %d, was %d)", ErrChanged, size, q.known.size)
}
