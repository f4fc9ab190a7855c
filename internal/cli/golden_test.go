package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/sandbox"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), got); diff != "" {
		t.Errorf("%s is not up to date, see go test -update (-file +now)\n%s", path, diff)
	}
}

func indent(compact string) string {
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(compact), "", "  "); err != nil {
		panic(err)
	}
	return out.String() + "\n"
}

func TestGoldenOutputs(t *testing.T) {
	for file, line := range map[string]string{
		"help.txt":            "--help",
		"help-start.txt":      "claude start --help",
		"list.txt":            "list",
		"list.json":           "list --json",
		"info.txt":            "info box",
		"info.json":           "info box --json",
		"image-list.txt":      "image list",
		"image-list.json":     "image list --json",
		"available.txt":       "image list --available",
		"available.json":      "image list --available --json",
		"start-detached.json": "claude start --json",
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		w.add("off", sandbox.Stopped)
		if status := w.app.Main(strings.Fields(line)); status != 0 {
			t.Errorf("%s: exit status %d: %s", line, status, &w.errs)
		}
		config, _ := w.app.Config()
		golden(t, filepath.Join("testdata", file), strings.ReplaceAll(w.out.String(), config.Home, "/home/u/.smolvm"))
	}
}

func TestHostileNamesInTables(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	s := w.boxes["box"]
	s.Agent.Version, s.LastError = "1\x1b[2J", "bad\r\n\x1b]0;x\a"
	w.boxes["box"] = s
	w.app.Main([]string{"list"})
	w.app.Main([]string{"info", "box"})
	if strings.ContainsAny(w.out.String(), "\x1b\r\a") {
		t.Errorf("control characters reached the terminal: %q", &w.out)
	}
}
