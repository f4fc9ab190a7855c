package faulty

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func serve(t *testing.T, data []byte) (*Server, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	s := New(dir)
	address, stop := s.Listen()
	t.Cleanup(stop)
	return s, address + "/f"
}

func ask(t *testing.T, address string, header ...string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return response, body
}

// TestRanges compares it with the standard library's server.
func TestRanges(t *testing.T) {
	data := []byte("0123456789")
	_, address := serve(t, data)
	whole, _ := ask(t, address)
	etag := whole.Header.Get("Etag")
	for _, header := range [][]string{
		{},
		{"Range", "bytes=0-0"},
		{"Range", "bytes=3-5"},
		{"Range", "bytes=3-"},
		{"Range", "bytes=8-100"},
		{"Range", "bytes=10-"},
		{"Range", "bytes=99-100"},
		{"Range", "bytes=3-5", "If-Range", etag},
		{"Range", "bytes=3-5", "If-Range", `"other"`},
		{"Range", "lines=3-5"},
	} {
		response, body := ask(t, address, header...)
		want := reference(data, etag, header)
		told := fmt.Sprint(response.StatusCode, response.Header.Get("Content-Range"))
		if told != want.told || want.status < 400 && !bytes.Equal(body, want.body) {
			t.Errorf("%q: %s %q, want %s %q", header, told, body, want.told, want.body)
		}
	}
}

type reply struct {
	status int
	told   string
	body   []byte
}

func reference(data []byte, etag string, header []string) reply {
	w := recorder{header: http.Header{"Etag": {etag}}, status: http.StatusOK}
	request := &http.Request{Method: http.MethodGet, Header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	if value := request.Header.Get("Range"); len(value) > 5 && value[:5] == "lines" {
		request.Header.Del("Range") // the standard library answers 416; others ignore it
	}
	http.ServeContent(&w, request, "f", time.Time{}, bytes.NewReader(data))
	return reply{w.status, fmt.Sprint(w.status, w.header.Get("Content-Range")), w.body.Bytes()}
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

func TestWhichAnswersAreSpoiled(t *testing.T) {
	s, address := serve(t, []byte("0123456789"))
	s.Set("f", Fault{Status: 500, Skip: 1, Times: 1}, Fault{Status: 502, Within: Span{5, 6}})
	for i, want := range []struct {
		span   string
		status int
	}{{"bytes=0-3", 206}, {"bytes=0-3", 500}, {"bytes=0-3", 206}, {"bytes=0-5", 502}, {"bytes=6-", 206}, {"bytes=5-", 502}} {
		if response, _ := ask(t, address, "Range", want.span); response.StatusCode != want.status {
			t.Errorf("request %d: %d, want %d", i, response.StatusCode, want.status)
		}
	}
	if s.Requests("f") != 6 || len(s.Log("f")) != 6 || s.Log("f")[3].Span != (Span{0, 6}) {
		t.Errorf("%d requests, %+v", s.Requests("f"), s.Log("f"))
	}
}

func TestThrottle(t *testing.T) {
	s, address := serve(t, make([]byte, 500_000))
	s.Throttle(4_000_000)
	begun := time.Now()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { ask(t, address) })
	}
	all.Wait()
	if took := time.Since(begun); took < 450*time.Millisecond || took > 3*time.Second {
		t.Errorf("2 MB at 4 MB/s took %v", took)
	}
}
