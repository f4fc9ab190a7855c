package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/host"
)

func TestDoctorOutputs(t *testing.T) {
	for file, line := range map[string]string{
		"doctor.txt": "doctor", "doctor.json": "doctor --json", "doctor-fix.txt": "doctor --fix",
	} {
		w := newWorld(t)
		w.kvm = host.Verdict{Reason: "no permission for /dev/kvm"}
		c, _ := w.app.Config()
		if err := os.MkdirAll(c.Home, 0o755); err != nil {
			t.Fatal(err)
		}
		if status := w.app.Main(strings.Fields(line)); status != 1 {
			t.Errorf("%s: exit status %d, want 1: %s", line, status, &w.errs)
		}
		text := strings.ReplaceAll(w.out.String(), c.Home, "/home/u/.smolvm")
		golden(t, filepath.Join("testdata", file), withoutSpace(text))
	}
}

// withoutSpace drops the line about free space, which --fix looks at for real.
func withoutSpace(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, " GiB free") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestDoctorClosesTheFolder holds that --fix really does what it says.
func TestDoctorClosesTheFolder(t *testing.T) {
	w := newWorld(t)
	w.kvm = host.Verdict{Usable: true}
	c, _ := w.app.Config()
	if err := os.MkdirAll(c.Home, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.Home, 0o777); err != nil {
		t.Fatal(err)
	}
	if status := w.app.Main([]string{"doctor", "--fix"}); status != 0 {
		t.Errorf("exit status %d: %s%s", status, &w.out, &w.errs)
	}
	if info, err := os.Stat(c.Home); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder has mode %v: %v", info.Mode(), err)
	}
}
