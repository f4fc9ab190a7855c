package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/imagebuild"
)

// withArchive puts programs first in PATH that know an archive with one package, of
// one version, whose file has the architecture in it.
func withArchive(t *testing.T, newest string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		"mmdebstrap": `for a; do case $a in
--extract-hook=*) dir=$(echo "$a" | sed "s/.* '\(.*\)'$/\1/") ;;
--architectures=*) arch=${a#*=} ;;
esac; done
mkdir -p "$dir/archives"; echo "$arch" >"$dir/archives/git.deb"`,
		"dpkg-deb": `cd "$(mktemp -d)"; printf 'Package: git\nVersion: ` + newest + `\nArchitecture: any\n' >control; tar -cf - control; rm -r "$PWD"`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nset -eu\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestPackagesFollowTheArchive(t *testing.T) {
	withArchive(t, "1:9.8-7")
	dir, _ := recipes(t)
	var out bytes.Buffer
	if err := refreshPackages(t.Context(), dir, false, &out); err != nil {
		t.Fatal(err)
	}
	for _, arch := range imagebuild.Arches {
		lock := filepath.Join(dir, images.BaseLock(arch))
		shipped, _ := os.ReadFile(filepath.Join("..", "..", "images", images.BaseLock(arch)))
		if raw, err := os.ReadFile(lock); err != nil || !bytes.Equal(raw, shipped) {
			t.Errorf("without -write %s is changed: %v", lock, err)
		}
		if want := fmt.Sprintf("| %s | git | ", arch); !strings.Contains(out.String(), want) || !strings.Contains(out.String(), " | 1:9.8-7 |\n") {
			t.Errorf("the table is\n%s", out.String())
		}
	}
	if err := refreshPackages(t.Context(), dir, true, &out); err != nil {
		t.Fatal(err)
	}
	amd64, _ := os.ReadFile(filepath.Join(dir, images.BaseLock("amd64")))
	arm64, _ := os.ReadFile(filepath.Join(dir, images.BaseLock("arm64")))
	if !strings.Contains(string(amd64), "\ngit 1:9.8-7 ") || strings.Contains(string(amd64), "rsync") || bytes.Equal(amd64, arm64) {
		t.Errorf("amd64 is locked as\n%sarm64 as\n%s", amd64, arm64)
	}
	out.Reset()
	if err := refreshPackages(t.Context(), dir, true, &out); err != nil || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("there is nothing to do, but %v\n%s", err, out.String())
	}
}
