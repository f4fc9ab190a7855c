package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/test/faulty"
)

// deadPlace is an address at which nothing listens.
func deadPlace(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return "http://" + listener.Addr().String() + "/manifest.json"
}

// TestResume: whatever is cut is asked for again from there, and the bytes are
// those of the file.
func TestResume(t *testing.T) {
	data := noise(300_000)
	last := int64(len(data)) - 1
	cut := func(after int64) faulty.Fault { return faulty.Fault{Stop: faulty.Cut, After: after, Times: 1} }
	tests := map[string][]faulty.Fault{
		"cut at 0":               {cut(0)},
		"cut at 1":               {cut(1)},
		"cut in the middle":      {cut(123_456)},
		"cut at the last byte":   {cut(last)},
		"cut five times at once": {cut(0), cut(0), cut(0), cut(0), cut(0)},
		"short, clean end":       {{Stop: faulty.Shorten, After: 777, Times: 1, Chunked: true, Skip: 1}, cut(1000)},
		"hangs":                  {{Stop: faulty.Hang, After: 1000, Times: 1}},
		"500":                    {{Status: 500, Times: 2}},
		"busy":                   {{Status: 503, Header: http.Header{"Retry-After": {"2"}}, Times: 2}},
		"too many requests":      {{Status: 429, Times: 2}},
		"weak tag":               {{ETag: `W/"x"`, Stop: faulty.Cut, After: 1000, Times: 1}, {ETag: `W/"x"`}},
		"no tag":                 {{ETag: "-", Stop: faulty.Cut, After: 1000, Times: 1}, {ETag: "-"}},
		"no ranges":              {{NoRanges: true, Stop: faulty.Cut, After: 1000, Times: 1}, {NoRanges: true}},
		"416 for every range":    {cut(1000), {Status: 416, Within: faulty.Span{From: 1, To: 0}, Times: 1}},
		"wrong range":            {cut(1000), {ContentRange: "bytes 0-99/300000", Times: 1}},
		"several parts":          {cut(1000), {Multipart: true, Times: 1}},
		"extra bytes":            {{Extra: []byte("more"), Chunked: true, Skip: 1, Times: 1}, cut(1000)},
	}
	for name, faults := range tests {
		t.Run(name, func(t *testing.T) {
			server, manifest := publish(t, "data", data)
			server.Set("data", faults...)
			notices := &told{}
			m := impatient().Mirrors([]string{manifest}, notices)
			get(t, m, "data", Span{}, data)
			if wholeAgain := map[string]bool{"416 for every range": true, "wrong range": true, "several parts": true}[name]; !wholeAgain && !strings.Contains(notices.all(), "trying again in") {
				t.Errorf("told: %s", notices.all())
			}
		})
	}
}

// TestResumeInside resumes a span that neither begins nor ends with the file.
func TestResumeInside(t *testing.T) {
	data := noise(300_000)
	server, manifest := publish(t, "data", data)
	server.Set("data", faulty.Fault{Stop: faulty.Cut, After: 40_000, Times: 2})
	get(t, impatient().Mirrors([]string{manifest}, nil), "data", Span{100_000, 200_000}, data[100_000:200_000])
	want := []int64{100_000, 140_000, 180_000}
	for i, r := range server.Log("data") {
		if i >= len(want) || r.Span.From != want[i] || r.Span.To != 200_000 || (r.IfRange == "") != (i == 0) {
			t.Errorf("request %d: %+v", i, r)
		}
	}
	if sent := server.Sent("data"); sent > 100_000+64<<10 {
		t.Errorf("%d bytes were sent for 100000", sent)
	}
}

// TestProgressIsForgiven: a line that is cut again and again is no reason to give
// up as long as it brings something.
func TestProgressIsForgiven(t *testing.T) {
	data := noise(300_000)
	server, manifest := publish(t, "data", data)
	server.Set("data", faulty.Fault{Stop: faulty.Cut, After: 10_000})
	get(t, impatient().Mirrors([]string{manifest}, nil), "data", Span{}, data)
	if n := server.Requests("data"); n != 30 {
		t.Errorf("%d requests", n)
	}
}

// TestDripIsNot: a byte with every connection is below the rate floor, too.
func TestDripIsNot(t *testing.T) {
	server, manifest := publish(t, "data", noise(300_000))
	server.Set("data", faulty.Fault{Stop: faulty.Cut, After: 1})
	got, err := download(t.Context(), impatient().Mirrors([]string{manifest}, nil), "data", Span{}, make([]byte, 1<<10))
	if err == nil || !strings.Contains(err.Error(), "cut after 1 of") || len(got) > 6 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestNoAdvanceIsGivenUp: a reader that throws away what it got does not go on for ever.
func TestNoAdvanceIsGivenUp(t *testing.T) {
	server, manifest := publish(t, "data", noise(300_000))
	server.Set("data", faulty.Fault{Stop: faulty.Cut, After: 100_000})
	m := impatient().Mirrors([]string{manifest}, nil)
	for range 100 {
		stream, err := m.Open(t.Context(), "data", Span{10, 0})
		if err != nil {
			if !strings.Contains(err.Error(), "without getting past byte 10") {
				t.Error(err)
			}
			return
		}
		_, _ = io.Copy(io.Discard, stream)
		stream.Close()
	}
	t.Error("it goes on")
}

func TestRetriesEnd(t *testing.T) {
	tests := map[string]struct {
		fault    faulty.Fault
		requests int
		says     string
	}{
		"500":            {faulty.Fault{Status: 500}, 6, "500"},
		"cut":            {faulty.Fault{Stop: faulty.Cut}, 6, "cut after 0"},
		"busy for ever":  {faulty.Fault{Status: 503, Header: http.Header{"Retry-After": {"1"}}}, 6, "503"},
		"404":            {faulty.Fault{Status: 404}, 1, "404"},
		"403":            {faulty.Fault{Status: 403}, 1, "403"},
		"web page":       {faulty.Fault{Header: http.Header{"Content-Type": {"text/html"}}}, 1, "web page"},
		"gzip":           {faulty.Fault{Header: http.Header{"Content-Encoding": {"br"}}}, 1, "packed again"},
		"416":            {faulty.Fault{Status: 416}, 2, "416"},
		"back tomorrow":  {faulty.Fault{Status: 503, Header: http.Header{"Retry-After": {"86400"}}}, 1, "86400"},
		"back next year": {faulty.Fault{Status: 429, Header: http.Header{"Retry-After": {"99999999999999999999"}}}, 1, "99999999999999999999"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server, manifest := publish(t, "data", noise(1000))
			server.Set("data", test.fault)
			_, err := download(t.Context(), impatient().Mirrors([]string{manifest}, nil), "data", Span{0, 500}, make([]byte, 100))
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), Beside(manifest, "data")) || fault.CodeOf(err) != fault.Network {
				t.Errorf("err = %v", err)
			}
			if n := server.Requests("data"); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
			if (name == "404") != errors.Is(err, fs.ErrNotExist) {
				t.Error("wrongly told that it is not there")
			}
		})
	}
}

// TestRetryAfter: the server's wish is honoured in both of its forms, by its own clock.
func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"7":                             7 * time.Second,
		"0":                             250 * time.Millisecond, // our own back-off is longer
		"nonsense":                      250 * time.Millisecond,
		"-5":                            250 * time.Millisecond,
		"Mon, 01 Jan 2001 00:01:30 GMT": 90 * time.Second,
		"Sun, 31 Dec 2000 00:00:00 GMT": 250 * time.Millisecond,
	} {
		server, manifest := publish(t, "data", noise(1000))
		server.Set("data", faulty.Fault{Status: 503, Times: 1, Header: http.Header{
			"Retry-After": {value}, "Date": {"Mon, 01 Jan 2001 00:00:00 GMT"},
		}})
		var waits []time.Duration
		source := New(Options{Jitter: func() float64 { return 0 }, Wait: func(_ context.Context, d time.Duration) error {
			waits = append(waits, d)
			return nil
		}})
		stream, err := source.Mirrors([]string{manifest}, nil).Open(t.Context(), "data", Span{})
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		stream.Close()
		if len(waits) != 1 || waits[0] > want || waits[0] < want-100*time.Millisecond {
			t.Errorf("%s: waited %v, want %v", value, waits, want)
		}
	}
}

func TestBackOff(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 500, 2: 1000, 3: 2000, 4: 4000, 5: 8000, 6: 8000, 100: 8000, 1 << 30: 8000} {
		want *= time.Millisecond
		if least, most := backOff(n, 0), backOff(n, 1); least != want/2 || most != want {
			t.Errorf("after %d failures between %v and %v", n, least, most)
		}
	}
}

func TestMirrorInsteadOf(t *testing.T) {
	data := noise(200_000)
	tests := map[string]struct {
		first faulty.Fault
		told  string
	}{
		"cut":            {faulty.Fault{Stop: faulty.Cut, After: 100}, "cut after 100 of"},
		"gone":           {faulty.Fault{Status: 404}, "404"},
		"500":            {faulty.Fault{Status: 500}, "500"},
		"busy for long":  {faulty.Fault{Status: 503, Header: http.Header{"Retry-After": {"9999"}}}, "9999"},
		"web page":       {faulty.Fault{Header: http.Header{"Content-Type": {"text/html"}}}, "web page"},
		"redirect loop":  {faulty.Fault{Redirect: "data"}, "redirects"},
		"changed midway": {faulty.Fault{Stop: faulty.Cut, After: 50_000, Times: 1}, "cut after 50000"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			first, a := publish(t, "data", data)
			second, b := publish(t, "data", data)
			first.Set("data", test.first, faulty.Fault{Status: 410})
			notices := &told{}
			get(t, impatient().Mirrors([]string{a, b}, notices), "data", Span{}, data)
			if n := second.Requests("data"); n != 1 {
				t.Errorf("%d requests to the mirror", n)
			}
			if text := notices.all(); !strings.Contains(text, test.told) || !strings.Contains(text, "asking "+placeOf(b)+" instead") {
				t.Errorf("told: %s", text)
			}
		})
	}
}

// TestDeadPlaceCostsOneAttempt: the place that worked stays the one that is asked.
func TestDeadPlaceCostsOneAttempt(t *testing.T) {
	data := noise(100_000)
	server, good := publish(t, "data", data)
	notices := &told{}
	m := impatient().Mirrors([]string{deadPlace(t), good}, notices)
	for from := int64(0); from < 100_000; from += 10_000 {
		get(t, m, "data", Span{from, from + 10_000}, data[from:from+10_000])
	}
	if n := strings.Count(notices.all(), "notice"); n != 1 || server.Requests("data") != 10 {
		t.Errorf("%d requests, told %s", server.Requests("data"), notices.all())
	}
}

func TestEveryPlaceIsNamed(t *testing.T) {
	first, a := publish(t, "data", noise(10))
	_, b := publish(t, "other", noise(10))
	first.Set("data", faulty.Fault{Status: 500})
	dead := deadPlace(t)
	_, err := impatient().Mirrors([]string{a, b, dead}, nil).Open(t.Context(), "data", Span{})
	if err == nil || fault.CodeOf(err) != fault.Network || fault.HintOf(err) == "" {
		t.Fatalf("err = %v", err)
	}
	for _, part := range []string{placeOf(a), placeOf(b), placeOf(dead), "500", "404", "refused", "none of 3 places"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUnreachable) {
		t.Error("one place's reason passes for that of all")
	}
	_, err = impatient().Mirrors([]string{b, b}, nil).Open(t.Context(), "data", Span{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing everywhere: %v", err)
	}
	if _, err := impatient().Mirrors(nil, nil).Open(t.Context(), "data", Span{}); err == nil {
		t.Error("no place delivers")
	}
}

func TestStrike(t *testing.T) {
	data := noise(1000)
	first, a := publish(t, "data", data)
	second, b := publish(t, "data", data)
	events := &told{}
	m := impatient().Mirrors([]string{a, b}, events)
	if !m.Strike(placeOf(a), errors.New("digest mismatch")) {
		t.Error("the last place is gone")
	}
	get(t, m, "data", Span{}, data)
	if first.Requests("data") != 0 || second.Requests("data") != 1 {
		t.Error("a place that was struck out is asked")
	}
	if text := events.all(); !strings.Contains(text, "warning "+placeOf(a)+" served wrong bytes: digest mismatch") {
		t.Errorf("told: %s", text)
	}
	if m.Strike(placeOf(b), errors.New("digest mismatch")) || m.Strike(placeOf(b), errors.New("again")) {
		t.Error("a place is left")
	}
	_, err := m.Open(t.Context(), "data", Span{})
	if fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), placeOf(a)) || !strings.Contains(err.Error(), placeOf(b)) {
		t.Errorf("err = %v", err)
	}
	if n := strings.Count(events.all(), "warning"); n != 2 {
		t.Errorf("%d warnings", n)
	}
}

func TestMirrorsGet(t *testing.T) {
	want := []byte("right")
	right := func(data []byte) error {
		if !bytes.Equal(data, want) {
			return fmt.Errorf("it is %.20q", data)
		}
		return nil
	}
	first, a := publish(t, "data", want)
	second, b := publish(t, "data", want)
	for name, f := range map[string]faulty.Fault{
		"wrong bytes": {Body: []byte("wrong")},
		"too long":    {Body: noise(2000), Chunked: true},
		"web page":    {Body: []byte("<html>login</html>")},
		"cut":         {Stop: faulty.Cut, After: 2},
		"empty":       {Body: []byte{}},
	} {
		first.Set("data", f)
		second.Set("data")
		events := &told{}
		m := impatient().Mirrors([]string{a, b}, events)
		data, err := m.Get(t.Context(), "data", 1000, right)
		if err != nil || !bytes.Equal(data, want) || !strings.Contains(events.all(), placeOf(a)) {
			t.Errorf("%s: %q, %v, told %s", name, data, err, events.all())
		}
		second.Set("data", f)
		if data, err := impatient().Mirrors([]string{a, b}, nil).Get(t.Context(), "data", 1000, right); err == nil || data != nil || !strings.Contains(err.Error(), placeOf(b)) {
			t.Errorf("%s everywhere: %q, %v", name, data, err)
		}
	}
}

func TestGetTriesAgain(t *testing.T) {
	for name, f := range map[string]faulty.Fault{
		"cut": {Stop: faulty.Cut, After: 5, Times: 2}, "500": {Status: 500, Times: 2}, "busy": {Status: 503, Times: 1, Header: http.Header{"Retry-After": {"1"}}},
	} {
		server, address := serve(t)
		server.Set("file", f)
		if data, err := impatient().Get(t.Context(), address, 1000); err != nil || string(data) != text {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	waited := false
	source := New(Options{Wait: func(context.Context, time.Duration) error { waited = true; return nil }})
	if _, err := source.Get(t.Context(), deadPlace(t), 1000); !errors.Is(err, ErrUnreachable) || waited {
		t.Errorf("offline: %v, waited %v", err, waited)
	}
}

// TestServerComesBack: a place that answered once is waited for when it is gone.
func TestServerComesBack(t *testing.T) {
	data := noise(100_000)
	dir := t.TempDir()
	write(t, dir+"/data", data)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	first := faulty.New(dir)
	first.Set("data", faulty.Fault{Stop: faulty.Cut, After: 50_000})
	old := &http.Server{Handler: first}
	go func() { _ = old.Serve(listener) }()
	waits := 0
	source := New(Options{Wait: func(context.Context, time.Duration) error {
		switch waits++; waits {
		case 1:
			old.Close()
		case 4:
			again, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			server := &http.Server{Handler: faulty.New(dir)}
			t.Cleanup(func() { server.Close() })
			go func() { _ = server.Serve(again) }()
		}
		return nil
	}})
	get(t, source.Mirrors([]string{"http://" + address + "/manifest.json"}, nil), "data", Span{}, data)
	if waits < 4 {
		t.Errorf("%d waits", waits)
	}
}

// TestOneIncidentCountsOnce: streams that are cut together do not use up the
// patience together.
func TestOneIncidentCountsOnce(t *testing.T) {
	data := noise(800_000)
	server, manifest := publish(t, "data", data)
	server.Set("data", faulty.Fault{Stop: faulty.Cut, After: 0, Times: 20})
	var mu sync.Mutex
	rounds := 0
	m := New(Options{Wait: func(context.Context, time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		rounds++
		if rounds == 12 {
			server.Set("data")
		}
		return nil
	}}).Mirrors([]string{manifest}, nil)
	var open []*Stream
	for i := range int64(8) { // all before the first is cut
		stream, err := m.Open(t.Context(), "data", Span{i * 100_000, (i + 1) * 100_000})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, stream)
	}
	for _, stream := range open {
		_, _ = io.Copy(io.Discard, stream)
		stream.Close()
	}
	server.Set("data")
	get(t, m, "data", Span{}, data)
}

func TestCancelAtAnyMoment(t *testing.T) {
	reason := errors.New("the user pressed Ctrl-C")
	for name, f := range map[string]faulty.Fault{
		"before the answer": {Redirect: "/wait"},
		"in the body":       {Stop: faulty.Hang, After: 10},
		"while waiting":     {Status: 503, Header: http.Header{"Retry-After": {"100"}}},
	} {
		server, manifest := publish(t, "data", noise(1000))
		server.Set("data", f)
		server.Set("wait", faulty.Fault{Body: []byte("x"), Stop: faulty.Hang})
		ctx, cancel := context.WithCancelCause(t.Context())
		timer := time.AfterFunc(100*time.Millisecond, func() { cancel(reason) })
		begun := time.Now()
		_, err := download(ctx, New(Options{}).Mirrors([]string{manifest}, nil), "data", Span{}, make([]byte, 100))
		timer.Stop()
		if !errors.Is(err, reason) || time.Since(begun) > 3*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(begun))
		}
	}
}

func TestLocalPlaces(t *testing.T) {
	data := noise(1000)
	dir, empty := t.TempDir(), t.TempDir()
	write(t, dir+"/data", data)
	m := impatient().Mirrors([]string{empty + "/manifest.json", "file://" + dir + "/manifest.json"}, nil)
	get(t, m, "data", Span{10, 20}, data[10:20])
	get(t, m, "data", Span{}, data)
	os.Remove(dir + "/data")
	if _, err := m.Open(t.Context(), "data", Span{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestSinkMayAskBack: what is told is told outside the lock.
func TestSinkMayAskBack(t *testing.T) {
	data := noise(1000)
	server, manifest := publish(t, "data", data)
	server.Set("data", faulty.Fault{Stop: faulty.Cut, After: 100, Times: 1})
	sink := &asking{}
	sink.m = impatient().Mirrors([]string{manifest}, sink)
	get(t, sink.m, "data", Span{}, data)
	if !sink.m.Strike(placeOf(manifest), io.EOF) && sink.heard != 2 {
		t.Errorf("%d events", sink.heard)
	}
}

type asking struct {
	m     *Mirrors
	heard int
}

func (a *asking) Emit(event.Event) {
	a.heard++
	a.m.Strike("another place", io.EOF)
}
