package faulty

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// content is a file as a fault has it.
type content struct {
	io.ReaderAt
	size  int64
	etag  string
	close func() error
}

// open finds the bytes of a file.
func (s *Server) open(file string, fault Fault) (content, error) {
	c := content{ReaderAt: bytes.NewReader(fault.Body), size: int64(len(fault.Body)), etag: fmt.Sprintf(`"body-%d"`, len(fault.Body)), close: func() error { return nil }}
	if fault.Body == nil {
		opened, err := os.Open(filepath.Join(s.folder, filepath.FromSlash(file)))
		if err != nil {
			return content{}, err
		}
		info, err := opened.Stat()
		if err != nil || !info.Mode().IsRegular() {
			opened.Close()
			return content{}, os.ErrNotExist
		}
		c = content{ReaderAt: opened, size: info.Size(), etag: fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()), close: opened.Close}
	}
	if fault.ETag != "" {
		c.etag = strings.TrimPrefix(fault.ETag, "-")
	}
	if fault.Flip > 0 && fault.Flip <= c.size {
		c.ReaderAt = flipped{c.ReaderAt, fault.Flip - 1}
	}
	return c, nil
}

// flipped is a file with one byte changed.
type flipped struct {
	io.ReaderAt
	at int64
}

func (f flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if i := f.at - off; i >= 0 && i < int64(n) {
		p[i] ^= 0x40
	}
	return n, err
}

// answer is what is sent.
type answer struct {
	status int
	body   io.Reader
	size   int64
}

// answerFor decides what is sent and writes the headers that belong to it.
func answerFor(w http.ResponseWriter, r *http.Request, fault Fault, c content, span Span, ranged bool) answer {
	h := w.Header()
	if c.etag != "" {
		set(h, "Etag", c.etag)
	}
	a := answer{status: http.StatusOK, size: c.size}
	from := int64(0)
	if ifRange := r.Header.Get("If-Range"); ranged && !fault.NoRanges && (ifRange == "" || ifRange == h.Get("Etag")) {
		set(h, "Accept-Ranges", "bytes")
		if span.To == 0 || span.To > c.size {
			span.To = c.size
		}
		if span.From >= c.size {
			set(h, "Content-Range", fmt.Sprintf("bytes */%d", c.size))
			return answer{status: http.StatusRequestedRangeNotSatisfiable, body: strings.NewReader("")}
		}
		a.status, a.size, from = http.StatusPartialContent, span.To-span.From, span.From
		told := fmt.Sprintf("bytes %d-%d/%d", span.From, span.To-1, c.size)
		if fault.Multipart {
			return multiple(h, c, span, told)
		}
		if fault.ContentRange != "" {
			told = fault.ContentRange
		}
		set(h, "Content-Range", told)
	}
	a.body = io.NewSectionReader(c, from+fault.Shift, a.size)
	a.size = min(a.size, c.size-from-fault.Shift)
	if len(fault.Extra) > 0 {
		a.body = io.MultiReader(a.body, bytes.NewReader(fault.Extra))
		a.size += int64(len(fault.Extra))
	}
	return a
}

// multiple wraps a span as one of several parts.
func multiple(h http.Header, c content, span Span, told string) answer {
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	part, _ := m.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/octet-stream"}, "Content-Range": {told}})
	_, _ = io.Copy(part, io.NewSectionReader(c, span.From, span.To-span.From))
	_ = m.Close()
	h.Set("Content-Type", "multipart/byteranges; boundary="+m.Boundary())
	return answer{status: http.StatusPartialContent, body: &body, size: int64(body.Len())}
}

// set keeps what a fault has put there.
func set(h http.Header, key, value string) {
	if h.Get(key) == "" {
		h.Set(key, value)
	}
}

// parseRange reads a single range; anything else counts as none.
func parseRange(value string) (Span, bool) {
	from, to, ok := strings.Cut(strings.TrimPrefix(value, "bytes="), "-")
	if !ok || !strings.HasPrefix(value, "bytes=") || from == "" {
		return Span{}, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return Span{}, false
	}
	if to == "" {
		return Span{From: first}, true
	}
	last, err := strconv.ParseInt(to, 10, 64)
	return Span{From: first, To: last + 1}, err == nil && last >= first
}
