package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/supervise"
)

// sizes are numbers of bytes that depend on the lengths of this computer's paths.
var sizes = regexp.MustCompile(`"bytes": \d+`)

// TestGoldenEnvelopes pins what --json gives of every command that is not among
// the outputs above: programs of others read it.
func TestGoldenEnvelopes(t *testing.T) {
	for file, line := range map[string]string{
		"mount-add.json":        "mount add off HERE:/data:ro --json",
		"mount-list.json":       "mount list off --json",
		"mount-remove.json":     "mount remove off /src --json",
		"port-add.json":         "port add box 8080:80 --json",
		"port-list.json":        "port list --json",
		"port-remove.json":      "port remove box 3000 --json",
		"rename.json":           "rename box new --json",
		"fork.json":             "fork box -n 2 --json",
		"snapshot-create.json":  "snapshot create box --json",
		"snapshot-list.json":    "snapshot list --json",
		"snapshot-rm.json":      "snapshot rm ready spoiled --json",
		"snapshot-restore.json": "snapshot restore ready --json",
		"resize.json":           "resize off --cpus 1 --memory 1G --disk 40G --json",
		"stop.json":             "stop box off --json",
		"delete.json":           "delete --all --yes --json",
		"cp.json":               "cp box:/workspace/src HERE --json",
		"exec.json":             "exec --json box ls",
		"attach.json":           "attach --json box",
		"logs.json":             "logs --json box",
		"env-list.json":         "env list box --json",
		"config-list.json":      "config list --json",
		"config-get.json":       "config get memory --json",
		"preset-list.json":      "preset list --json",
		"image-verify.json":     "image verify --json",
		"image-save.json":       "image save claude -o HERE/out.tar --json",
		"bug-report.json":       "bug-report --json -o HERE/report.txt box",
		"failure.json":          "info nothere --json",
	} {
		t.Run(strings.TrimSuffix(file, ".json"), func(t *testing.T) { goldenEnvelope(t, file, line) })
	}
}

func goldenEnvelope(t *testing.T, file, line string) {
	w, here := copyWorld(t), t.TempDir()
	w.variables = map[string][]string{"box": {"MODE=test", "TOKEN"}}
	w.program = func(_ supervise.Command, s supervise.Streams) (int, error) {
		_, _ = s.Out.Write([]byte("out\x1b[1m\n"))
		_, _ = s.Err.Write([]byte("err\n"))
		return 0, nil
	}
	s := w.boxes["box"]
	s.Forwards = []port.Forward{{Host: 3000, Guest: 3000}}
	w.boxes["box"] = s
	off := w.boxes["off"]
	off.Mounts = []record.Mount{{Host: here, Guest: "/src"}, {Host: here, Guest: "/ro", ReadOnly: true}}
	w.boxes["off"] = off
	folder, err := w.app.folder("box")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder.Console(), []byte("first\r\n\x1b[1msecond\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := 0
	if file == "failure.json" {
		want = 3
	}
	if status := w.app.Main(strings.Fields(strings.ReplaceAll(line, "HERE", here))); status != want {
		t.Errorf("%s: exit status %d: %s", line, status, &w.errs)
	}
	c, _ := w.app.Config()
	text := strings.NewReplacer(c.Home, "/home/u/.smolvm", here, "/here").Replace(w.out.String())
	golden(t, filepath.Join("testdata", file), sizes.ReplaceAllString(text, `"bytes": 0`))
}
