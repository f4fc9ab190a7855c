package dist_test

import (
	"compress/gzip"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/trust"
)

// archive is unpacked; what is in it works where it was unpacked.
func (r release) archive(t *testing.T) {
	dir := t.TempDir()
	output(t, "tar", "-C", dir, "-xzf", r.one(t, "*_linux_amd64.tar.gz"))
	root := filepath.Join(dir, "smolvm_"+version+"_linux_amd64")
	pages, err := filepath.Glob(filepath.Join(root, "man", "man1", "*.1"))
	if err != nil || len(pages) < 10 {
		t.Errorf("manual pages: %v %v", pages, err)
	}
	if !strings.Contains(read(t, filepath.Join(root, "LICENSES.txt")), "==== aead.dev/minisign") {
		t.Error("no licence of minisign")
	}
	r.program(t, filepath.Join(root, "smolvm"))
	completions(t, filepath.Join(root, "completions"), root)
	rendered(t, pages)
}

// program is a release: it says so, believes what it carries, and refuses the keys
// of checkouts.
func (r release) program(t *testing.T, path string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the program is for amd64")
	}
	home := t.TempDir()
	smolvm := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Env = []string{"HOME=" + home, "SMOLVM_HOME=" + filepath.Join(home, "state")}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := smolvm("version"); err != nil || !strings.Contains(out, "smolvm "+version+" (release)") || strings.Contains(out, "not built in") {
		t.Errorf("version: %v\n%s", err, out)
	}
	if out, err := smolvm("config", "show"); err != nil || !strings.Contains(out, address) {
		t.Errorf("config: %v\n%s", err, out)
	}
	// Nobody answers at the address: the manifest is the one that it carries.
	if out, err := smolvm("image", "list", "--available"); err != nil {
		t.Errorf("the manifest inside is not believed: %v\n%s", err, out)
	}
	private, public, err := trust.NewDevelopmentKey(rand.Reader)
	must(t, err)
	publish(t, filepath.Join(home, "images"), private)
	development := filepath.Join(home, "development.pub")
	must(t, os.WriteFile(development, []byte(public), 0o600))
	out, err := smolvm("image", "list", "--available", "--manifest", filepath.Join(home, "images"), "--trusted-key", development)
	if err == nil || !strings.Contains(out, "development key") {
		t.Errorf("what the key of a checkout signed: %v\n%s", err, out)
	}
}

// completions of each shell load; bash's offers what the program says.
func completions(t *testing.T, dir, path string) {
	t.Helper()
	script := `. "$1/bash/smolvm" && complete -p smolvm &&
COMP_WORDS=(smolvm image pul) COMP_CWORD=2 COMP_LINE="smolvm image pul" COMP_POINT=16 &&
_get_comp_words_by_ref() { cur=pul prev=image words=("${COMP_WORDS[@]}") cword=2; } &&
compopt() { :; } && PATH=$2:$PATH SMOLVM_HOME=$2/state && export SMOLVM_HOME && __start_smolvm && printf '<%s>' "${COMPREPLY[@]}"`
	if out := output(t, "bash", "--norc", "-c", script, "bash", dir, path); !strings.Contains(out, "-F __start_smolvm smolvm") ||
		runtime.GOARCH == "amd64" && !strings.Contains(out, "<pull") {
		t.Errorf("bash: %s", out)
	}
	for shell, args := range map[string][]string{
		"zsh":  {"-f", "-n", filepath.Join(dir, "zsh", "_smolvm")},
		"fish": {"--no-execute", filepath.Join(dir, "fish", "smolvm.fish")},
	} {
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s is not installed (package %s)", shell, shell)
			continue
		}
		output(t, shell, args...)
	}
}

// rendered pages have no warning.
func rendered(t *testing.T, pages []string) {
	t.Helper()
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Log("mandoc is not installed (package mandoc)")
		return
	}
	output(t, "mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...)
}

// debianPackage is installed by dpkg into an empty root.
func (r release) debianPackage(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg is not installed")
	}
	root := t.TempDir()
	admin := filepath.Join(root, "var", "lib", "dpkg")
	for _, dir := range []string{"info", "updates", "triggers"} {
		must(t, os.MkdirAll(filepath.Join(admin, dir), 0o755))
	}
	for _, file := range []string{"status", "available"} {
		must(t, os.WriteFile(filepath.Join(admin, file), nil, 0o644))
	}
	install := []string{"dpkg", "--root=" + root, "--force-architecture", "--force-not-root", "--force-script-chrootless", "--log=/dev/null", "--install", r.one(t, "*_linux_amd64.deb")}
	if os.Getuid() != 0 { // in a namespace where this user is root, or else only unpacked
		install = append([]string{"unshare", "--map-root-user"}, install...)
		if err := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "true").Run(); err != nil {
			t.Log("no user namespaces: the package is unpacked, not installed")
			install = []string{"dpkg-deb", "--extract", r.one(t, "*_linux_amd64.deb"), root}
		}
	}
	output(t, install[0], install[1:]...)
	if install[0] != "dpkg-deb" && !strings.Contains(read(t, filepath.Join(admin, "status")), "Package: smolvm\nStatus: install ok installed") {
		t.Errorf("dpkg says:\n%s", read(t, filepath.Join(admin, "status")))
	}
	r.program(t, filepath.Join(root, "usr", "bin", "smolvm"))
	for _, file := range []string{
		"man/man1/smolvm-image.1.gz", "bash-completion/completions/smolvm", "zsh/vendor-completions/_smolvm",
		"fish/vendor_completions.d/smolvm.fish", "doc/smolvm/copyright",
	} {
		if _, err := os.Stat(filepath.Join(root, "usr", "share", file)); err != nil {
			t.Error(err)
		}
	}
	if page := unzipped(t, filepath.Join(root, "usr/share/man/man1/smolvm.1.gz")); !strings.HasPrefix(page, `.TH "SMOLVM" "1"`) {
		t.Errorf("smolvm.1 begins with %.60q", page)
	}
}

func unzipped(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	r, err := gzip.NewReader(f)
	must(t, err)
	raw, err := io.ReadAll(r)
	must(t, err)
	return string(raw)
}

func (r release) rpm(t *testing.T) {
	if _, err := exec.LookPath("rpm"); err != nil {
		t.Skip("rpm is not installed (package rpm)")
	}
	database := "--dbpath=" + t.TempDir() // not in the home of whoever runs the test
	list := output(t, "rpm", database, "-qp", "--list", r.one(t, "*_linux_amd64.rpm"))
	for _, want := range []string{"/usr/bin/smolvm", "/usr/share/man/man1/smolvm.1.gz", "/usr/share/zsh/site-functions/_smolvm"} {
		if !strings.Contains(list, want+"\n") {
			t.Errorf("no %s in the package:\n%s", want, list)
		}
	}
	output(t, "rpm", database, "--checksig", "--nosignature", r.one(t, "*_linux_amd64.rpm"))
}
