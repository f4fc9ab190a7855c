package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/record"
)

// OpenSSH itself reads the file, through the Include line, whatever the home is called.
func TestOpenSSHReadsTheFile(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("there is no ssh here")
	}
	for _, odd := range []string{"plain", "a b", `a [b] *c? 100%`, `a"b'c`, `back\slash`} {
		home := filepath.Join(t.TempDir(), odd)
		book, err := record.Open(home)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := book.Create("box"); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t)
		w.app.keepSSHConfig(book, config.Config{Home: home})
		user := filepath.Join(t.TempDir(), "config")
		own := includeLine(home) + "\nHost *\n  ForwardAgent yes\n  User somebody\n"
		if err := os.WriteFile(user, []byte(own), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(ssh, "-F", user, "-G", "box.smolvm").Output()
		if err != nil {
			t.Fatalf("ssh -G: %v", err)
		}
		for _, want := range []string{
			"user agent\n", "forwardagent no\n", "hostkeyalias box\n", "stricthostkeychecking true\n",
			"proxycommand env ", "SMOLVM_HOME=" + strings.ReplaceAll(strings.ReplaceAll(home, "%", "%%"), "'", `'\''`),
		} {
			if !strings.Contains(string(out), want) {
				t.Errorf("home %s: ssh does not have %q:\n%s", odd, want, out)
			}
		}
		_, said, _ := strings.Cut(string(out), "\nuserknownhostsfile ")
		said, _, _ = strings.Cut(said, "\n")
		if want := book.Folder("box").KnownHosts(); strings.ReplaceAll(said, "%%", "%") != want {
			t.Errorf("home %s: ssh looks for the host key in %s, want %s", odd, said, want)
		}
		if w.errs.Len() > 0 {
			t.Errorf("home %s: %s", odd, &w.errs)
		}
	}
}
