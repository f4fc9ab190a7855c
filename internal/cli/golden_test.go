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

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
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
		"list-plain.txt":      "list --plain",
		"info.txt":            "info box",
		"info-plain.txt":      "info box --plain",
		"info.json":           "info box --json",
		"ssh-config.txt":      "ssh-config",
		"ssh-config.json":     "ssh-config box --json",
		"env.json":            "env set box MODE=test MODE=live EMPTY= --json",
		"top.txt":             "top --count 1 --every 1s",
		"top.json":            "top -n 2 --every 1s --json box",
		"network.txt":         "network box",
		"network.json":        "network box --json",
		"image-list.txt":      "image list",
		"image-list.json":     "image list --json",
		"available.txt":       "image list --available",
		"available.json":      "image list --available --json",
		"start-detached.json": "claude start --json",
		"plan.txt":            "claude start --dry-run -n work --memory 1G -- -p fix",
		"plan.json":           "claude start --dry-run --json",
		"plan-local.txt":      "codex start --dry-run",
		"inspect.txt":         "image inspect claude",
		"inspect-plain.txt":   "image inspect claude --plain",
		"inspect.json":        "image inspect --json",
		"verify.txt":          "image verify",
		"prune.txt":           "prune --dry-run",
		"prune.json":          "prune --all --json",
		"config.txt":          "config show",
		"config.json":         "config show --json",
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		w.add("off", sandbox.Stopped)
		if status := w.app.Main(strings.Fields(line)); status != 0 {
			t.Errorf("%s: exit status %d: %s", line, status, &w.errs)
		}
		c, _ := w.app.Config()
		golden(t, filepath.Join("testdata", file), strings.ReplaceAll(w.out.String(), c.Home, "/home/u/.smolvm"))
	}
}

func TestInfoOfBroken(t *testing.T) {
	w := newWorld(t)
	w.boxes["box"] = sandbox.Status{Record: record.Record{Name: "box", LastError: "damaged"}, State: sandbox.Broken}
	if status := w.app.Main([]string{"info", "box"}); status != 0 {
		t.Fatalf("exit status %d: %s", status, &w.errs)
	}
	c, _ := w.app.Config()
	want := "name      box\nstate     broken\nerror     damaged\nfolder    " + filepath.Join(c.Home, "sandboxes", "box") + "\n"
	if diff := cmp.Diff(want, w.out.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// ssh takes % and quotes in its options for its own, and may run the command in
// a shell that does not name the state folder.
func TestSSHOptionsOfOddHomes(t *testing.T) {
	c := config.Config{Home: "/a 100%", Getenv: func(string) string { return "/a 100%" }}
	if got, want := proxyCommand("/b/smolvm", "box", c), "env 'SMOLVM_HOME=/a 100%%' /b/smolvm ssh --stdio box"; got != want {
		t.Errorf("proxy command %s, want %s", got, want)
	}
	if got, want := sshQuote(`/a "b\c" 5%`), `"/a \"b\\c\" 5%%"`; got != want {
		t.Errorf("path %s, want %s", got, want)
	}
}

// A sandbox whose catalogue has another image now is marked, with its directory
// shortened for people alone.
func TestListOfAnOutdatedSandbox(t *testing.T) {
	w := newWorld(t)
	w.app.UserHome = "/home/u"
	w.add("box", sandbox.Stopped)
	s := w.boxes["box"]
	s.Directory, s.Image.Address = "/home/u/src/box", "https://example.org/manifest.json"
	w.boxes["box"] = s
	w.seen = catalogues{"https://example.org/manifest.json": {Release: "2026.2", Rows: []manifest.Row{fakeRow("claude-code")}}}
	w.run(t, "list", want{
		out: "NAME  STATE    SESSIONS  PRESET       AGENT             MEMORY   DISK     PORTS  AGE      STOPS  DIRECTORY\n" +
			"box   stopped  -         claude-code  9.8.7 (outdated)  2.0 GiB  1.5 GiB  -      3 hours  -      ~/src/box\n",
		errs: "Newer images exist: smolvm update box",
	})
	if view := w.app.viewOf(s); view.Newer == nil || view.Newer.Release != "2026.2" || view.Directory != s.Directory {
		t.Errorf("in JSON: %+v", view)
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

// outdatedWorld has a stopped sandbox "off" whose catalogue has another image, and
// one, "box", that runs.
func outdatedWorld(t *testing.T) *fakeWorld {
	w := newWorld(t)
	for _, name := range []string{"box", "off"} {
		w.add(name, map[string]string{"box": sandbox.Running, "off": sandbox.Stopped}[name])
		s := w.boxes[name]
		s.Image.Address, s.Agent.Version, s.Image.Release = "https://u:xxxxx@example.org/manifest.json", "9.0.0", "2025.9"
		w.boxes[name] = s
	}
	w.changes = sandbox.Changes{
		Packages: []string{"htop", "jq"},
		Paths:    []sandbox.Change{{Path: "/etc/motd", Files: 1}, {Path: "/usr/share/doc", Files: 7}, {Path: "/usr/bin/vi", Files: 1, Removed: true}},
	}
	return w
}

const updateText = `off: claude-code 9.0.0 (2025.9) to claude-code 9.8.7 (2026.1)
  stays: /home/agent, /workspace, images and containers of Docker and Podman
  drops packages: htop, jq
  drops /etc/motd
  drops /usr/share/doc (7 files)
  brings back /usr/bin/vi
`

func TestUpdate(t *testing.T) {
	const runs = "box runs: smolvm stop box, then smolvm update box\n"
	pulled := []string{"catalogue", "catalogue", "catalogue", "pull claude-code", "update off to 2026.1 9.8.7", "give up"}
	for line, c := range map[string]struct {
		terminal bool
		answer   string
		want     want
	}{
		"update":               {want: want{status: 2, log: []string{"catalogue", "catalogue"}, errs: updateText + "smolvm: the update drops changes"}},
		"update --dry-run":     {want: want{log: []string{"catalogue", "catalogue"}, errs: updateText + runs}},
		"update --yes":         {want: want{log: pulled, errs: updateText}},
		"update -y off":        {want: want{log: append([]string{"catalogue"}, pulled[2:]...), errs: "updated off\n"}},
		"update off box":       {want: want{status: 4, log: []string{"catalogue"}, errs: "Stop it first: smolvm stop box"}},
		"update off":           {terminal: true, answer: "n\n", want: want{log: []string{"catalogue"}, errs: "drop these changes? [y/N] "}},
		"update other":         {want: want{status: 3, errs: "no sandbox"}},
		"update off --yes -y":  {want: want{log: append([]string{"catalogue"}, pulled[2:]...), errs: "updated off\n"}},
		"update --dry-run off": {terminal: true, want: want{log: []string{"catalogue"}, errs: updateText}},
	} {
		w := outdatedWorld(t)
		w.app.Streams.In = strings.NewReader(c.answer)
		w.app.Streams.InTTY, w.app.Streams.OutTTY = c.terminal, c.terminal
		w.run(t, line, c.want)
	}
	w := outdatedWorld(t)
	w.changes = sandbox.Changes{}
	w.run(t, "update off", want{log: append([]string{"catalogue"}, pulled[2:]...), errs: "drops nothing\nupdated off\n"})
	w = outdatedWorld(t)
	w.app.Main(strings.Fields("update off --yes --json"))
	golden(t, filepath.Join("testdata", "update.json"), w.out.String())
}

// A start says once that there is a newer image, and starts what there is.
func TestStartTellsOfANewerImage(t *testing.T) {
	w := outdatedWorld(t)
	w.seen = catalogues{"https://u:xxxxx@example.org/manifest.json": {Release: "2026.2", Rows: []manifest.Row{fakeRow("claude-code")}}}
	folder, err := w.app.folder("off")
	if err != nil || os.MkdirAll(folder.Dir(), 0o700) != nil {
		t.Fatal(err)
	}
	const said = "There is a newer image for off, claude-code 9.8.7 (2026.2): stop it and run smolvm update off."
	w.run(t, "start off", want{out: "off\n", log: []string{"start off 2m0s"}, errs: said})
	w.set("off", sandbox.Stopped)
	w.errs.Reset()
	w.app.Main([]string{"start", "off"})
	if strings.Contains(w.errs.String(), "newer image") {
		t.Errorf("it is said again: %s", &w.errs)
	}
}
