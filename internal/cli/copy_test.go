package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// copyWorld has a running sandbox whose /workspace is a folder here.
func copyWorld(t *testing.T) *fakeWorld {
	t.Helper()
	w := newWorld(t)
	w.add("box", sandbox.Running)
	w.add("off", sandbox.Stopped)
	w.files = t.TempDir()
	if err := os.MkdirAll(filepath.Join(w.files, "workspace/src"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"workspace/src/a": "alpha", "workspace/file": "omega"} {
		if err := os.WriteFile(filepath.Join(w.files, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func text(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestCopyBothWays(t *testing.T) {
	w, here := copyWorld(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(here, "note"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		w.out.Reset()
		if status := w.app.Main(append([]string{"cp"}, args...)); status != 0 {
			t.Fatalf("cp %v: status %d, %s", args, status, &w.errs)
		}
	}
	run(filepath.Join(here, "note"), "box:")
	if got := text(t, filepath.Join(w.files, "workspace/note")); got != "hello" {
		t.Errorf("in the sandbox: %q", got)
	}
	run("box:/workspace/src", "box:/workspace/file", here)
	run("box:/workspace/src/.", filepath.Join(here, "new"))
	for name, want := range map[string]string{"src/a": "alpha", "file": "omega", "new/a": "alpha"} {
		if got := text(t, filepath.Join(here, name)); got != want {
			t.Errorf("%s here: %q", name, got)
		}
	}
	run(filepath.Join(here, "note"), filepath.Join(here, "file"), "box:/workspace/src")
	if got := text(t, filepath.Join(w.files, "workspace/src/file")); got != "omega" {
		t.Errorf("in a folder of the sandbox: %q", got)
	}
	run("box:/workspace/file", "-")
	if w.out.String() != "omega" {
		t.Errorf("on standard output: %q", &w.out)
	}
	w.app.Streams.In = strings.NewReader("streamed")
	run("-", "box:/workspace/stream", "--json")
	if got := text(t, filepath.Join(w.files, "workspace/stream")); got != "streamed" || !strings.Contains(w.out.String(), `"bytes": 8`) {
		t.Errorf("from standard input: %q, %s", got, &w.out)
	}
	if want := `copy box receive /workspace "note" user=agent`; w.log[0] != want {
		t.Errorf("asked %s, want %s", w.log[0], want)
	}
}

func TestCopyRefuses(t *testing.T) {
	for line, want := range map[string]struct {
		code fault.Code
		errs string
	}{
		"cp a b":                          {fault.Usage, "names a sandbox"},
		"cp box:a box:b":                  {fault.Usage, "both sides are in sandboxes"},
		"cp box:a off:b .":                {fault.Usage, "one sandbox at a time"},
		"cp box:a box:b -":                {fault.Usage, "stands for one file"},
		"cp box:a":                        {fault.Usage, "a source and a destination"},
		"cp nowhere:a .":                  {fault.NotFound, `no sandbox "nowhere"`},
		"cp off:a .":                      {fault.NotRunning, "smolvm start off"},
		"cp /no/such box:":                {fault.NotFound, "no such file"},
		"cp box:/workspace/missing .":     {fault.NotFound, "in the sandbox"},
		"cp box:/workspace/src -":         {fault.Usage, "smolvm exec box tar -c -C /workspace/src ."},
		"cp box:/workspace/file /no/such": {fault.Storage, "there is no folder /no"},
		"cp - box:/workspace":             {fault.NotFound, "say what the file in it is called"},
		"cp box:/workspace/file box:/workspace/src /tmp/no-such-folder": {fault.Storage, "there is no folder /tmp/no-such-folder"},
		"cp box:/workspace/src/a box:/tmp/a .":                          {fault.Usage, `would both be "a"`},
		"cp -u nobody box:/workspace/file /tmp/xyz":                     {fault.Usage, "no user"},
	} {
		w := copyWorld(t)
		if status := w.app.Main(strings.Fields(line)); status != want.code.Exit() || !strings.Contains(w.errs.String(), want.errs) {
			t.Errorf("%s: status %d, want %d: %s", line, status, want.code.Exit(), &w.errs)
		}
	}
}
