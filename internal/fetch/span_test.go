package fetch

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/test/faulty"
)

func TestSpansOfEveryKindOfPlace(t *testing.T) {
	data := noise(100_000)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data"), data)
	server := faulty.New(dir)
	address, stop := server.Listen()
	defer stop()
	for _, place := range []string{address, dir, "file://" + dir} {
		for _, span := range []Span{{}, {0, 1}, {0, 50_000}, {1, 2}, {50_000, 0}, {99_999, 100_000}, {99_999, 0}, {0, 100_000}} {
			stream, err := New(Options{}).OpenSpan(t.Context(), place+"/data", span)
			if err != nil {
				t.Fatalf("%s %v: %v", place, span, err)
			}
			got, err := io.ReadAll(stream)
			stream.Close()
			end := span.To
			if end == 0 {
				end = int64(len(data))
			}
			if err != nil || !bytes.Equal(got, data[span.From:end]) || stream.From != span.From || stream.Size != int64(len(data)) || stream.Place != place {
				t.Errorf("%s %v: %d bytes from %d of %d at %q, %v", place, span, len(got), stream.From, stream.Size, stream.Place, err)
			}
		}
		for _, span := range []Span{{0, 100_001}, {100_001, 0}, {100_001, 100_002}} {
			if _, err := New(Options{}).OpenSpan(t.Context(), place+"/data", span); err == nil || !strings.Contains(err.Error(), "only 100000 bytes") {
				t.Errorf("%s %v: %v", place, span, err)
			}
		}
		if _, err := New(Options{}).OpenSpan(t.Context(), place+"/data", Span{5, 5}); fault.CodeOf(err) != fault.Internal {
			t.Errorf("empty span: %v", err)
		}
	}
}

// TestSpanRefusals: one attempt takes a part only when it is exactly what was asked for.
func TestSpanRefusals(t *testing.T) {
	data := noise(1000)
	server, manifest := publish(t, "data", data)
	header := func(key, value string) http.Header { return http.Header{key: {value}} }
	tests := map[string]struct {
		fault faulty.Fault
		says  string
	}{
		"416":                    {faulty.Fault{Status: 416}, "416"},
		"416 of a shorter file":  {faulty.Fault{Status: 416, ContentRange: "bytes */99"}, "only 99 bytes"},
		"no Content-Range":       {faulty.Fault{ContentRange: "-"}, "does not say which"},
		"no total":               {faulty.Fault{ContentRange: "bytes 100-199/*"}, "does not say which"},
		"other unit":             {faulty.Fault{ContentRange: "lines 100-199/1000"}, "does not say which"},
		"from before":            {faulty.Fault{ContentRange: "bytes 50-199/1000"}, "50 to 199"},
		"overlapping":            {faulty.Fault{ContentRange: "bytes 150-249/1000"}, "150 to 249"},
		"shorter":                {faulty.Fault{ContentRange: "bytes 100-150/1000"}, "100 to 150"},
		"longer":                 {faulty.Fault{ContentRange: "bytes 100-299/1000"}, "100 to 299"},
		"backwards":              {faulty.Fault{ContentRange: "bytes 199-100/1000"}, "does not say which"},
		"past the end":           {faulty.Fault{ContentRange: "bytes 100-199/150"}, "does not say which"},
		"of a shorter file":      {faulty.Fault{ContentRange: "bytes 100-149/150"}, "only 150 bytes"},
		"multipart":              {faulty.Fault{Multipart: true}, "several parts"},
		"gzip":                   {faulty.Fault{Header: header("Content-Encoding", "gzip")}, "packed again"},
		"web page":               {faulty.Fault{Header: header("Content-Type", "text/html; charset=utf-8")}, "web page"},
		"204":                    {faulty.Fault{Status: 204}, "204"},
		"304":                    {faulty.Fault{Status: 304}, "304"},
		"body shorter than told": {faulty.Fault{Stop: faulty.Cut, After: 99}, "cut after 99 of 100 bytes from byte 100 on"},
		"body shorter, chunked":  {faulty.Fault{Stop: faulty.Shorten, After: 99, Chunked: true}, "cut after 99 of 100"},
		"extra bytes":            {faulty.Fault{Extra: []byte("x")}, "Content-Length 101"},
		"extra bytes, chunked":   {faulty.Fault{Extra: []byte("x"), Chunked: true}, "more than the 100 bytes"},
		"endless, chunked":       {faulty.Fault{Extra: noise(1 << 20), Chunked: true}, "more than the 100 bytes"},
		"silent":                 {faulty.Fault{Stop: faulty.Hang, After: 10}, "less than"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server.Set("data", test.fault)
			stream, err := impatient().OpenSpan(t.Context(), Beside(manifest, "data"), Span{100, 200})
			var got []byte
			if err == nil {
				got, err = io.ReadAll(stream)
				stream.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.says) || fault.CodeOf(err) != fault.Network || fault.HintOf(err) == "" {
				t.Errorf("%d bytes, err = %v (%s, %q), want %q", len(got), err, fault.CodeOf(err), fault.HintOf(err), test.says)
			}
			if len(got) > 100 || !bytes.Equal(got, data[100:100+len(got)]) {
				t.Errorf("%d wrong bytes were delivered", len(got))
			}
		})
	}
}

func TestServerWithoutRanges(t *testing.T) {
	data := noise(1000)
	server, manifest := publish(t, "data", data)
	server.Set("data", faulty.Fault{NoRanges: true})
	stream, err := New(Options{}).OpenSpan(t.Context(), Beside(manifest, "data"), Span{100, 200})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if got, err := io.ReadAll(stream); err != nil || stream.From != 0 || !bytes.Equal(got, data) {
		t.Errorf("from %d, %d bytes, %v", stream.From, len(got), err)
	}
}

// TestCloseInterrupts: a Read that waits for the network ends when its stream is closed.
func TestCloseInterrupts(t *testing.T) {
	server, manifest := publish(t, "data", noise(1000))
	server.Set("data", faulty.Fault{Stop: faulty.Hang, After: 10})
	stream, err := New(Options{}).OpenSpan(t.Context(), Beside(manifest, "data"), Span{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, stream)
		ended <- err
	}()
	timer := time.AfterFunc(50*time.Millisecond, func() { stream.Close() })
	defer timer.Stop()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a closed stream ended like a complete one")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Read goes on after Close")
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	server, manifest := publish(t, "data", noise(100_000))
	source := New(Options{})
	for from := int64(0); from < 100_000; from += 10_000 {
		stream, err := source.OpenSpan(t.Context(), Beside(manifest, "data"), Span{from, from + 10_000})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, 10_000)); err != nil { // no further Read for EOF
			t.Fatal(err)
		}
		stream.Close()
	}
	if n := server.Connections(); n != 1 {
		t.Errorf("%d connections for 10 spans one after the other", n)
	}
	streams := []*Stream{}
	for range 4 {
		stream, err := source.OpenSpan(t.Context(), Beside(manifest, "data"), Span{0, 50_000})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	for _, stream := range streams {
		stream.Close()
	}
	if n := server.Connections(); n != 4 {
		t.Errorf("%d connections for 4 spans at the same time", n)
	}
}

func TestChangedFileIsRefused(t *testing.T) {
	data := noise(1000)
	tests := map[string]faulty.Fault{
		"other tag, range ignored":        {ETag: `"other"`, NoRanges: true},
		"other tag, If-Range ignored":     {ETag: `"other"`, Header: http.Header{}, ContentRange: "bytes 100-999/1000"},
		"other length":                    {Body: data[:900]},
		"other length, tag not told":      {Body: data[:900], ETag: "-"},
		"other length, 416":               {Body: data[:50], ETag: "-", Header: http.Header{}},
		"longer, whole file":              {Body: append(noise(1000), 'x'), NoRanges: true, ETag: "-"},
		"other date where no tag is told": {ETag: "-", Header: http.Header{"Last-Modified": {"Tue, 02 Jan 2024 00:00:00 GMT"}}},
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) {
			server, manifest := publish(t, "data", data)
			first := faulty.Fault{Stop: faulty.Cut, After: 100, Times: 1}
			if name == "other date where no tag is told" {
				first.ETag, first.Header = "-", http.Header{"Last-Modified": {"Mon, 01 Jan 2024 00:00:00 GMT"}}
			}
			server.Set("data", first, f)
			got, err := download(t.Context(), impatient().Mirrors([]string{manifest}, nil), "data", Span{}, make([]byte, 64))
			if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "changed on the server") || fault.HintOf(err) == "" {
				t.Errorf("err = %v", err)
			}
			if len(got) > 100 {
				t.Errorf("%d bytes of two files were put together", len(got))
			}
			if log := server.Log("data"); len(log) < 2 || log[1].Span.From != 100 || log[1].IfRange == "" {
				t.Errorf("requests %+v", log)
			}
		})
	}
}
