package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/sandbox"
)

func TestBugReport(t *testing.T) {
	w := newWorld(t)
	t.Chdir(t.TempDir())
	w.app.Environ = []string{"MY_API_KEY=correct-horse-battery"}
	w.add("old", sandbox.Stopped)
	w.add("box", sandbox.Running)
	s := w.boxes["box"]
	s.Started = fakeTime
	w.boxes["box"] = s
	folder, err := w.app.folder("box")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	console := strings.Repeat("x", maxTail) + "\nthe key is correct-horse-battery \x1b[2J\nlast line\n"
	if err := os.WriteFile(folder.Console(), []byte(console), 0o600); err != nil {
		t.Fatal(err)
	}
	if status := w.app.Main([]string{"bug-report"}); status != 0 {
		t.Fatalf("exit status %d: %s", status, &w.errs)
	}
	path := strings.TrimSpace(w.out.String())
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, part := range []string{"==== version ====", "==== doctor ====", "==== config ====", `"name": "box"`, "the key is [secret]", "last line"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
	if strings.Contains(text, "correct-horse") || strings.Contains(text, "xxxx") || strings.Contains(text, "\x1b") {
		t.Error("the report has a secret, half a line, or control characters")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("the report has mode %v", info.Mode())
	}
	if !strings.Contains(w.errs.String(), "1 secret taken out") {
		t.Errorf("the contents were not listed: %s", &w.errs)
	}
}

func TestBugReportRefuses(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.run(t, "bug-report -o "+taken, want{status: 4, errs: "is there already"})
	w.run(t, "bug-report -o "+filepath.Join(dir, "none", "x"), want{status: 9, errs: "no such file or directory"})
	w.run(t, "bug-report nobody", want{status: 3, errs: `there is no sandbox "nobody"`})
	if raw, _ := os.ReadFile(taken); string(raw) != "mine" {
		t.Error("a file was replaced")
	}
}
