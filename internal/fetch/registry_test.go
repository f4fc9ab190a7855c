package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch/oci"
)

// registry starts Debian's docker-registry and gives its host and port.
func registry(t *testing.T, extra string) string {
	t.Helper()
	t.Setenv("HOME", t.TempDir()) // no credentials of whoever runs the test
	address, dir := freeAddress(t), t.TempDir()
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Appendf(nil, `version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %s/data}
http:
  addr: %s
  secret: of no importance
%s`, dir, address, extra))
	run(t, "docker-registry", address, "docker-registry", "serve", config)
	return address
}

// release is some files as they are pushed.
func release(files map[string][]byte) []oci.File {
	var list []oci.File
	for name, data := range files {
		hash := sha256.Sum256(data)
		list = append(list, oci.File{
			Name: name, Size: int64(len(data)), SHA256: hex.EncodeToString(hash[:]),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		})
	}
	return list
}

// requests keeps the methods and paths of what goes over a transport.
type requests struct {
	http.RoundTripper
	mu   sync.Mutex
	list []string
}

func (r *requests) RoundTrip(q *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.list = append(r.list, q.Method+" "+q.URL.String())
	r.mu.Unlock()
	return r.RoundTripper.RoundTrip(q)
}

func (r *requests) count(what string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.list {
		if strings.Contains(q, what) {
			n++
		}
	}
	return n
}

func TestRegistry(t *testing.T) {
	data := noise(3 << 20)
	hash := sha256.Sum256(data)
	archive := fmt.Sprintf("base-amd64-%x.zst", hash)
	files := map[string][]byte{"manifest.json": []byte(`{"a":1}`), archive: data, "empty": {}}
	wire := &requests{RoundTripper: newTransport(defaultStall)}
	source := New(Options{Transport: wire})
	reference := "oci://" + registry(t, "") + "/smol/vm:1.0"

	sent := map[string]int64{}
	err := source.Push(t.Context(), reference, release(files), func(file string, done, _ int64) { sent[file] = done })
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if sent[name] != int64(len(want)) {
			t.Errorf("progress of %s ends at %d", name, sent[name])
		}
		got, err := source.Get(t.Context(), Beside(reference, name), 4<<20)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if n := wire.count("/manifests/1.0"); n != 2 { // the push's PUT, one GET
		t.Errorf("%d requests for the OCI manifest", n)
	}
	m := source.Mirrors([]string{reference + "#manifest.json"}, nil)
	get(t, m, archive, Span{1 << 20, 2 << 20}, data[1<<20:2<<20])
	get(t, m, archive, Span{}, data)
	if got, err := source.Get(t.Context(), reference, 100); err != nil || string(got) != `{"a":1}` {
		t.Errorf("without a file: %q, %v", got, err)
	}
	if _, err := source.Get(t.Context(), reference+"#other", 100); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), reference) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := source.Get(t.Context(), strings.Replace(reference, "1.0", "9.9", 1), 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tag that is not there: %v", err)
	}

	// Again, with one file more and one less: what is there is not sent again.
	wire.list = nil
	delete(files, archive)
	files["manifest.json"] = []byte(`{"a":2}`)
	next := strings.Replace(reference, "1.0", "2.0", 1)
	if err := source.Push(t.Context(), next, release(files), nil); err != nil {
		t.Fatal(err)
	}
	if n := wire.count("POST"); n != 1 {
		t.Errorf("%d uploads, want only the new manifest.json", n)
	}
	get(t, source.Mirrors([]string{next}, nil), archive, Span{5, 10}, data[5:10]) // by the digest in its name
	if got, err := source.Get(t.Context(), next, 100); err != nil || string(got) != `{"a":2}` {
		t.Errorf("2.0: %q, %v", got, err)
	}
	byDigest(t, source, next)
}

// byDigest asks for a release by the digest of its OCI manifest, right and wrong.
func byDigest(t *testing.T, source *Source, reference string) {
	t.Helper()
	host, path, _ := strings.Cut(strings.TrimPrefix(reference, "oci://"), "/")
	repo, tag, _ := strings.Cut(path, ":")
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+host+"/v2/"+repo+"/manifests/"+tag, nil)
	request.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	fixed := "oci://" + host + "/" + repo + "@" + response.Header.Get("Docker-Content-Digest")
	if got, err := source.Get(t.Context(), fixed, 100); err != nil || string(got) != `{"a":2}` {
		t.Errorf("%s: %q, %v", fixed, got, err)
	}
	if err := source.Push(t.Context(), fixed, nil, nil); fault.CodeOf(err) != fault.Usage {
		t.Errorf("push by digest: %v", err)
	}
}

// TestRegistryRefusesWrongBytes: what is pushed under a digest has it.
func TestRegistryRefusesWrongBytes(t *testing.T) {
	reference := "oci://" + registry(t, "") + "/smol/vm:1.0"
	files := release(map[string][]byte{"data": noise(1000)})
	files[0].Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(make([]byte, 1000))), nil }
	source := New(Options{Wait: noWait})
	if err := source.Push(t.Context(), reference, files, nil); err == nil || !strings.Contains(err.Error(), "data") {
		t.Errorf("wrong bytes: %v", err)
	}
	files[0].Open = func() (io.ReadCloser, error) { return nil, fs.ErrPermission }
	if err := source.Push(t.Context(), reference, files, nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("unreadable file: %v", err)
	}
	files[0].Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(make([]byte, 10))), nil }
	if err := source.Push(t.Context(), reference, files, nil); err == nil {
		t.Error("a file that became shorter was pushed")
	}
	if _, err := source.Get(t.Context(), reference, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a release that was not pushed whole is there: %v", err)
	}
}

func TestRegistryWithLogin(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("geheim"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	passwords := filepath.Join(t.TempDir(), "htpasswd")
	write(t, passwords, fmt.Appendf(nil, "anna:%s\n", hash))
	host := registry(t, "auth: {htpasswd: {realm: r, path: "+passwords+"}}\n")
	reference := "oci://" + host + "/smol/vm:1.0"
	files := release(map[string][]byte{"manifest.json": []byte("{}")})
	for password, ok := range map[string]bool{"": false, "falsch": false, "geheim": true} {
		login(t, host, password)
		source := New(Options{Wait: noWait})
		err := source.Push(t.Context(), reference, files, nil)
		if (err == nil) != ok {
			t.Fatalf("password %q: %v", password, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "401") || !strings.Contains(fault.HintOf(err), "docker login") || strings.Contains(err.Error(), "falsch")) {
			t.Errorf("password %q: %v, hint %q", password, err, fault.HintOf(err))
		}
		if _, err := source.Get(t.Context(), reference, 100); (err == nil) != ok {
			t.Errorf("get with password %q: %v", password, err)
		}
	}
}

// login writes what docker login writes.
func login(t *testing.T, host, password string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	if password == "" {
		return
	}
	secret := base64.StdEncoding.EncodeToString([]byte("anna:" + password))
	write(t, filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, secret))
}

// tokens is a registry that wants tokens, which end after a few requests, and
// whose blobs lie in an object store.
type tokens struct {
	t        *testing.T
	self     string // host and port
	store    string // address of the object store
	manifest []byte

	mu     sync.Mutex
	issued int
	left   int
}

func (r *tokens) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.URL.Path == "/token" {
		if user, password, _ := q.BasicAuth(); user != "anna" || password != "geheim" {
			r.t.Errorf("token asked for by %q", user)
		}
		if q.URL.Query().Get("scope") != "repository:smol/vm:pull" {
			r.t.Errorf("scope %q", q.URL.Query())
		}
		r.issued++
		r.left = 3
		fmt.Fprintf(w, `{"token":"t%d"}`, r.issued)
		return
	}
	if q.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", r.issued) || r.left == 0 {
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="s",scope="repository:smol/vm:pull"`, r.self))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.left--
	switch {
	case strings.Contains(q.URL.Path, "/manifests/"):
		_, _ = w.Write(r.manifest)
	case strings.Contains(q.URL.Path, "/blobs/"):
		http.Redirect(w, q, r.store+"/data", http.StatusTemporaryRedirect)
	}
}

// TestTokensStayAtHome: a token goes to its registry only, and is renewed.
func TestTokensStayAtHome(t *testing.T) {
	data := noise(100_000)
	objects, manifest := publish(t, "data", data)
	guard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "" {
			t.Error("the object store was told the token")
		}
		objects.ServeHTTP(w, q)
	}))
	defer guard.Close()
	_ = manifest
	r := &tokens{t: t, store: guard.URL, manifest: fmt.Appendf(nil,
		`{"schemaVersion":2,"layers":[{"digest":"sha256:%x","size":%d,"annotations":{"org.opencontainers.image.title":"data"}}]}`, sha256.Sum256(data), len(data))}
	server := httptest.NewServer(r)
	defer server.Close()
	r.self = strings.TrimPrefix(server.URL, "http://")
	t.Setenv("HOME", t.TempDir())
	login(t, r.self, "geheim")
	m := New(Options{Wait: noWait}).Mirrors([]string{"oci://" + r.self + "/smol/vm:1.0"}, nil)
	for from := int64(0); from < 100_000; from += 10_000 {
		get(t, m, "data", Span{from, from + 10_000}, data[from:from+10_000])
	}
	if r.issued < 3 {
		t.Errorf("%d tokens for 11 requests of 3 each", r.issued)
	}
	for _, q := range objects.Log("data") {
		if q.Span.To == 0 {
			t.Errorf("the redirect lost its range: %+v", q)
		}
	}
}

// TestPlainHTTPOnlyAtHome: where the library would talk plainly, we do not.
func TestPlainHTTPOnlyAtHome(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for _, host := range []string{"10.0.0.1:5000", "192.168.1.1", "registry.local:5000", "registry.example"} {
		wire := &requests{RoundTripper: refusing{}}
		_, err := New(Options{Transport: wire, Wait: noWait}).Get(t.Context(), "oci://"+host+"/smol/vm:1", 100)
		if err == nil || wire.count("GET https://"+host) == 0 || wire.count("http://") != 0 {
			t.Errorf("%s: %v, %q", host, err, wire.list)
		}
	}
}

type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("nobody there")
}

func TestRegistryAnswersRefused(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		ref    string
		says   string
	}{
		"endless manifest": {func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = w.Write(make([]byte, 1<<16))
			}
		}, ":1", "larger than"},
		"other digest": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"schemaVersion":2}`) }, "@sha256:" + strings.Repeat("a", 64), "whose digest is sha256:"},
		"web page":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, ":1", "invalid OCI manifest"},
		"image index": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}`)
		}, ":1", "image.index"},
		"hangs": {func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }, ":1", "no answer"},
		"500":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, ":1", "500"},
		"own words": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"not you"}]}`)
		}, ":1", "not you"},
		"redirect down": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "http://registry.example/", http.StatusFound)
		}, ":1", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path != "/v2/" {
					test.answer(w, q)
				}
			}))
			defer server.Close()
			address := "oci://" + strings.TrimPrefix(server.URL, "http://") + "/smol/vm" + test.ref
			_, err := New(Options{Stall: 300 * time.Millisecond, Wait: noWait}).Get(t.Context(), address, 100)
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "smol/vm") || fault.CodeOf(err) != fault.Network || fault.HintOf(err) == "" {
				t.Errorf("err = %v, hint %q", err, fault.HintOf(err))
			}
		})
	}
}

func TestRegistryCancelled(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
	defer server.Close()
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	timer := time.AfterFunc(100*time.Millisecond, func() { cancel(reason) })
	defer timer.Stop()
	reference := "oci://" + strings.TrimPrefix(server.URL, "http://") + "/smol/vm:1"
	if _, err := New(Options{}).Mirrors([]string{reference}, nil).Open(ctx, "data", Span{}); !errors.Is(err, reason) {
		t.Error(err)
	}
	if err := New(Options{}).Push(ctx, reference, nil, nil); !errors.Is(err, reason) {
		t.Error(err)
	}
}
