package resolve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/config"
)

// The keys of the catalogue's entry take the place of the built-in ones, for this
// catalogue only; a key that was named for the run is believed beside them.
func TestBelieve(t *testing.T) {
	home := t.TempDir()
	a, b := newPair(t), newPair(t)
	line := func(p pair) string {
		lines := strings.Split(strings.TrimSpace(p.public), "\n")
		return lines[len(lines)-1]
	}
	must(t, os.WriteFile(filepath.Join(home, "config.toml"), []byte("[[catalogue]]\naddress = \"https://example.org/x/\"\nkeys = [\""+
		line(a)+"\", \""+line(b)+"\"]\nthreshold = 2\nmirrors = [\"/srv/x\"]\n"), 0o600))
	c, err := config.Load([]string{"SMOLVM_HOME=" + home}, "")
	must(t, err)
	given := newPair(t)
	c.TrustedKeys = []string{given.public}
	rules, err := Believe(c, "https://example.org/x/manifest.json", func() time.Time { return now })
	must(t, err)
	if roots := rules.Policy.Roots; len(roots) != 2 || roots[0].Threshold != 2 || len(roots[0].Keys) != 2 || roots[1].Keys[0] != given.public || roots[1].Threshold != 1 {
		t.Errorf("%+v", roots)
	}
	if len(rules.Mirrors) != 1 || !rules.Policy.Now.Equal(now) || !strings.HasPrefix(rules.Memory.Folder("x"), home) || rules.Carried != nil {
		t.Errorf("%+v", rules)
	}
	// A test's build has no key of its own.
	rules, err = Believe(c, "https://example.org/y/manifest.json", func() time.Time { return now })
	if roots := rules.Policy.Roots; err != nil || len(roots) != 1 || roots[0].Keys[0] != given.public || len(rules.Mirrors) > 0 {
		t.Errorf("another catalogue: %+v, %v", roots, err)
	}
}
