// Package dist_test builds a release with scripts/dist, as make dist does, and looks
// at it as those who get it do: checks digests and signatures, installs the Debian
// package, reads the manual, loads the completions, asks the program what it is and
// what it believes.
//
// The checkout is copied to two places, as it is, and built in both: for linux/amd64,
// or with -long for all platforms and with nothing compiled before.
package dist_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

var long = flag.Bool("long", false, "build for all platforms, with nothing compiled before")

// address of the live manifest of the release: nobody answers there.
const address = "http://127.0.0.1:1/manifest.json"

// version of the release that is built.
const version = "1.2.3-test.1"

// release is what was built, and what it was built with.
type release struct {
	dir      string
	public   string // file with the key
	settings []string
}

func TestRelease(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("releases are built on Linux")
	}
	settings := keysAndManifest(t)
	source := filepath.Join(t.TempDir(), "source")
	copyCheckout(t, source)
	first := settings.built(t, source)
	second := settings.built(t, source)
	t.Run("same bytes", func(t *testing.T) { sameBytes(t, first, second) })
	t.Run("checksums", first.checksums)
	t.Run("signatures", first.signatures)
	t.Run("formula", first.formula)
	t.Run("sbom", first.sbom)
	t.Run("archive", first.archive)
	t.Run("debian package", first.debianPackage)
	t.Run("rpm", first.rpm)
}

// keysAndManifest makes what a release is given: a key, and a folder with a manifest
// that the key has signed.
func keysAndManifest(t *testing.T) release {
	t.Helper()
	dir := t.TempDir()
	private, public, err := trust.NewKey(rand.Reader)
	must(t, err)
	key := filepath.Join(dir, "release.key")
	r := release{public: filepath.Join(dir, "release.pub")}
	must(t, os.WriteFile(key, []byte(private), 0o600))
	must(t, os.WriteFile(r.public, []byte(public), 0o600))
	published := filepath.Join(dir, "images")
	publish(t, published, private)
	r.settings = []string{
		"DIST_VERSION=" + version, "DIST_KEY=" + key, "DIST_TRUST=" + r.public,
		"DIST_MANIFEST=" + published, "DIST_ADDRESS=" + address,
	}
	return r
}

// publish makes a folder with a manifest of no images.
func publish(t *testing.T, dir, private string) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	raw, err := manifest.Encode(manifest.Manifest{
		Schema: manifest.Schema, Release: "carried-1", Serial: 1, Created: now, Expires: now.AddDate(1, 0, 0), MinVersion: "0.0.0", Rows: []manifest.Row{},
	})
	must(t, err)
	signature, id, err := trust.Sign(raw, private)
	must(t, err)
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "manifest.json"), raw, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, trust.SignatureFile("manifest.json", id)), signature, 0o600))
}

// built makes the release in a clone of source.
func (r release) built(t *testing.T, source string) release {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "src")
	output(t, "git", "clone", "-q", source, root)
	environment := append(slices.Clone(r.settings), "DIST_PLATFORMS=linux/amd64")
	if *long {
		environment = append(slices.Clone(r.settings), "GOCACHE="+filepath.Join(dir, "cache"))
	}
	begun := time.Now()
	run(t, root, environment, "make", "--no-print-directory", "dist")
	t.Logf("built in %.0f s", time.Since(begun).Seconds())
	r.dir = filepath.Join(root, "dist", "release")
	return r
}

// copyCheckout makes a checkout of what this one has in it now, committed at a fixed
// time.
func copyCheckout(t *testing.T, root string) {
	t.Helper()
	must(t, os.Mkdir(root, 0o755))
	fixed := []string{
		"GIT_AUTHOR_DATE=@1780000000 +0000", "GIT_COMMITTER_DATE=@1780000000 +0000", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t", "TO=" + root,
	}
	run(t, "../..", fixed, "bash", "-c", `set -e -o pipefail
git -c safe.directory='*' ls-files -z -co --exclude-standard | while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done |
	tar --null -T - -c | tar -x -C "$TO"
cd "$TO" && git init -q && git add -A && git commit -q -m copy`)
}

func run(t *testing.T, dir string, environment []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), environment...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// one is the only file of the release with such a name.
func (r release) one(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(r.dir, pattern))
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: %v %v", pattern, names, err)
	}
	return names[0]
}

func sameBytes(t *testing.T, first, second release) {
	names, err := filepath.Glob(filepath.Join(first.dir, "*"))
	must(t, err)
	if want := map[bool]int{false: 12, true: 22}[*long]; len(names) != want {
		t.Errorf("%d files, want %d: %v", len(names), want, names)
	}
	for _, name := range names {
		a, err := os.ReadFile(name)
		must(t, err)
		b, err := os.ReadFile(filepath.Join(second.dir, filepath.Base(name)))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v", filepath.Base(name), err)
		}
	}
}

func (r release) checksums(t *testing.T) {
	run(t, r.dir, nil, "sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	sums := read(t, filepath.Join(r.dir, "SHA256SUMS"))
	names, err := os.ReadDir(r.dir)
	must(t, err)
	for _, e := range names {
		listed := strings.Contains(sums, "  "+e.Name()+"\n")
		if excepted := e.Name() == "SHA256SUMS" || strings.HasSuffix(e.Name(), ".minisig"); listed == excepted {
			t.Errorf("%s is in SHA256SUMS: %v", e.Name(), listed)
		}
	}
}

// signatures are checked with our own code, and with minisign itself where it is.
func (r release) signatures(t *testing.T) {
	policy := trust.Policy{Roots: []trust.Root{{Keys: []string{read(t, r.public)}, Threshold: 1}}, Now: time.Now()}
	for _, file := range []string{"SHA256SUMS", filepath.Base(r.one(t, "*_linux_amd64.deb"))} {
		path := filepath.Join(r.dir, file)
		signature := []byte(read(t, path+".minisig"))
		if _, err := policy.Verify([]byte(read(t, path)), map[string][]byte{"": signature}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if _, err := exec.LookPath("minisign"); err != nil {
			t.Log("minisign is not installed (package minisign)")
			continue
		}
		if out := output(t, "minisign", "-V", "-p", r.public, "-m", path); !strings.Contains(out, "Trusted comment: smolvm "+version+" "+file) {
			t.Errorf("%s: %s", file, out)
		}
	}
}

// formula names exactly the archives that there are.
func (r release) formula(t *testing.T) {
	text := read(t, r.one(t, "smolvm.rb"))
	archives, err := filepath.Glob(filepath.Join(r.dir, "*.tar.gz"))
	must(t, err)
	found := regexp.MustCompile(`url "[^"]*/([^/"]+)"\n\s+sha256 "([0-9a-f]{64})"`).FindAllStringSubmatch(text, -1)
	if len(found) != len(archives) {
		t.Errorf("%d archives, in the formula %d:\n%s", len(archives), len(found), text)
	}
	for _, m := range found {
		if got, _, _ := strings.Cut(output(t, "sha256sum", filepath.Join(r.dir, m[1])), " "); got != m[2] {
			t.Errorf("%s has the digest %s, the formula says %s", m[1], got, m[2])
		}
	}
}

// sbom names every module that go.sum has locked for the program, with its sum.
func (r release) sbom(t *testing.T) {
	var d struct {
		Packages []struct{ Name, VersionInfo, SourceInfo, PrimaryPackagePurpose string }
	}
	must(t, json.Unmarshal([]byte(read(t, r.one(t, "*.spdx.json"))), &d))
	locked := read(t, "../../go.sum")
	modules, programs := map[string]bool{}, 0
	for _, p := range d.Packages {
		if p.PrimaryPackagePurpose == "APPLICATION" {
			programs++
			continue
		}
		modules[p.Name] = true
		sum := strings.TrimPrefix(p.SourceInfo, "go.sum ")
		if p.Name != "stdlib" && !strings.Contains(locked, p.Name+" "+p.VersionInfo+" "+sum+"\n") {
			t.Errorf("%s %s %q is not what go.sum has", p.Name, p.VersionInfo, sum)
		}
	}
	for _, want := range []string{"stdlib", "aead.dev/minisign", "github.com/spf13/cobra", "github.com/pkg/sftp"} { // the last one is the guest's
		if !modules[want] {
			t.Errorf("no %s in the bill of materials", want)
		}
	}
	if want := map[bool]int{false: 3, true: 6}[*long]; programs != want {
		t.Errorf("%d programs, want %d", programs, want)
	}
	for _, tool := range []string{"nfpm", "actionlint", "staticcheck"} {
		for name := range modules {
			if strings.Contains(name, tool) {
				t.Errorf("%s is in the program", name)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	return string(raw)
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
