//go:build vm

package vm_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// demoPreset is a preset of the user's own that is quickly installed. install is the
// script of its only step, which may take limit.
func demoPreset(install, limit string) string {
	return fmt.Sprintf(`name = "demo"
summary = "A program that stands for an agent"
launch = ["demo", "--all-permissions"]
ask = ["demo"]

[agent]
name = "Demo"
version = "1.0.0"
check = ["demo", "--version"]

[resources]
memory_mib = 512
disk_mib = 2048

[[recipe.steps]]
name = "install"
limit = %q
run = '''
# demo 1.0.0
%s
'''

[[recipe.files]]
path = "/home/agent/.config/demo/settings"
content = "answered"
`, limit, install)
}

const installDemo = `printf '#!/bin/sh\necho "demo 1.0.0 $*"\n' >/usr/local/bin/demo
chmod 0755 /usr/local/bin/demo`

// own makes a world with an empty cache whose user has the preset.
func own(t *testing.T, preset string) *world {
	t.Helper()
	w := theWorld.fresh(t, theWorld.address)
	folder := filepath.Join(w.home, "presets")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "demo.toml"), []byte(preset), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestUnpublishedPresetIsBuiltOnce starts a preset that nobody publishes twice at
// the same time, and once more: one build, three sandboxes.
func TestUnpublishedPresetIsBuiltOnce(t *testing.T) {
	w := own(t, demoPreset(installDemo, "5m"))
	var group sync.WaitGroup
	var results [2]result
	for i := range results {
		group.Go(func() {
			results[i] = w.run(t, nil, "demo", "start", "-n", fmt.Sprintf("demo-%d", i), "--no-mount", "--", "a", "b")
		})
	}
	group.Wait()
	said := ""
	for _, r := range results {
		if r.status != 0 || r.stdout != "demo 1.0.0 --all-permissions a b\n" {
			t.Fatalf("status %d, stdout %q, stderr %s", r.status, r.stdout, r.stderr)
		}
		said += r.stderr
	}
	if n := strings.Count(said, "recipe build-demo: install: ..."); n != 1 {
		t.Errorf("the recipe ran %d times:\n%s", n, said)
	}
	if !strings.Contains(said, "is built on this computer, once: no image of demo is published") {
		t.Errorf("nobody was told why: %s", said)
	}
	again := w.run(t, nil, "demo", "start", "-n", "demo-2", "--no-mount", "--rm", "--", "c")
	if again.status != 0 || strings.Contains(again.stderr, "built") || strings.Contains(again.stderr, "recipe") {
		t.Errorf("the third start: status %d, stderr %s", again.status, again.stderr)
	}
	conform(t, w, "demo-0", promise{agent: []string{"demo", "--version"}, version: "1.0.0", memoryMiB: 512})
	w.must(t, "prune") // what was built is not another version's
	if list := w.must(t, "image", "list"); !strings.Contains(list, "demo") {
		t.Errorf("prune took what was built: %s", list)
	}
	agentWaitsForItsService(t, w)
}

// agentWaitsForItsService gives the preset, whose image stays the same, a service that
// needs a while, and an agent that is its client.
func agentWaitsForItsService(t *testing.T, w *world) {
	t.Helper()
	path := filepath.Join(w.home, "presets", "demo.toml")
	with := strings.Replace(read(t, path), `launch = ["demo", "--all-permissions"]`,
		`launch = ["curl", "--silent", "--show-error", "http://127.0.0.1:8099/etc/hostname"]`, 1)
	with = strings.Replace(with, "[[recipe.steps]]", `[[services]]
name = "web"
run = ["sh", "-c", "sleep 3; exec python3 -m http.server --bind 127.0.0.1 --directory / 8099"]
port = 8099

[[recipe.steps]]`, 1)
	if err := os.WriteFile(path, []byte("ports = [8099]\n"+with), 0o644); err != nil {
		t.Fatal(err)
	}
	r := w.run(t, nil, "demo", "start", "-n", "client", "--no-mount", "--attach")
	if r.status != 0 || r.stdout != "client\n" || !strings.Contains(r.stderr, "service web: answers in") || strings.Contains(r.stderr, "recipe") {
		t.Errorf("status %d, stdout %q, stderr %s", r.status, r.stdout, r.stderr)
	}
	if r := w.run(t, nil, "attach", "client"); r.status != 0 || r.stdout != "client\n" || r.stderr != "" {
		t.Errorf("attached once more: status %d, stdout %q, stderr %s", r.status, r.stdout, r.stderr)
	}
}

// TestRecipesThatFail holds that a failing and a hanging recipe end with the step's
// own words and the log's path, and leave neither sandbox nor image.
func TestRecipesThatFail(t *testing.T) {
	w := own(t, demoPreset("echo cannot reach the index >&2; exit 7", "5m"))
	for install, says := range map[string]string{
		"echo cannot reach the index >&2; exit 7": "step \"install\" ended with status 7",
		"echo still at it; sleep 600":             "step \"install\" did not end within 4s",
	} {
		path := filepath.Join(w.home, "presets", "demo.toml")
		if err := os.WriteFile(path, []byte(demoPreset(install, "4s")), 0o644); err != nil {
			t.Fatal(err)
		}
		got := w.run(t, nil, "demo", "start", "--no-mount", "--no-attach", "-v")
		log := filepath.Join(w.home, "build", "log", "build-demo.log")
		words, _, _ := strings.Cut(strings.TrimPrefix(install, "echo "), " >&2")
		words, _, _ = strings.Cut(words, ";")
		for _, part := range []string{says, words, log} {
			if got.status != 125 || !strings.Contains(got.stderr, part) {
				t.Errorf("status %d, %q is missing in: %s", got.status, part, got.stderr)
			}
		}
		if kept := read(t, log); !strings.Contains(kept, words) {
			t.Errorf("the log has %q", kept)
		}
		if w.state(t, "demo") != "" || strings.Contains(w.must(t, "image", "list"), "demo") {
			t.Error("something was left behind")
		}
		if left := w.processes(""); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
		if _, err := os.Stat(filepath.Join(w.home, "build", "work")); err == nil {
			t.Error("the work folder is left")
		}
	}
	killedBuild(t, w)
}

// killedBuild kills the builder while the recipe runs: its machine ends by itself,
// nothing of the image is there, and the next start builds it.
func killedBuild(t *testing.T, w *world) {
	t.Helper()
	path := filepath.Join(w.home, "presets", "demo.toml")
	if err := os.WriteFile(path, []byte(demoPreset("sleep 600", "20m")), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	cmd := w.command(ctx, "demo", "start", "--no-mount", "--no-attach")
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(said); lines.Scan() && !strings.Contains(lines.Text(), "install: "); {
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the build's machine ends", func() bool { return len(w.processes("")) == 0 })
	if list := w.must(t, "image", "list") + w.must(t, "list"); strings.Contains(list, "demo") {
		t.Errorf("something of the killed build is there: %s", list)
	}
	if err := os.WriteFile(path, []byte(demoPreset(installDemo, "5m")), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := w.run(t, nil, "demo", "start", "-n", "demo", "--no-mount", "--", "a"); r.status != 0 || r.stdout != "demo 1.0.0 --all-permissions a\n" {
		t.Errorf("the next start: status %d, stdout %q, stderr %s", r.status, r.stdout, r.stderr)
	}
}

// TestBuildWithoutANetwork builds where the computer has none: the installer fails
// soon, and the reason is told.
func TestBuildWithoutANetwork(t *testing.T) {
	w := own(t, demoPreset("npm install --global smolvm-has-no-such-package", "5m"))
	w.address = filepath.Join(*images, "manifest.json") // no server is reached either
	alone := []string{"unshare", "--user", "--map-current-user", "--net"}
	if err := exec.Command(alone[0], append(alone[1:], "true")...).Run(); err != nil {
		t.Skip("this host gives its users no network namespaces")
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	smolvm := w.command(ctx, "demo", "start", "--no-mount", "--no-attach")
	cmd := exec.CommandContext(ctx, alone[0], append(alone[1:], smolvm.Args...)...)
	cmd.Env, cmd.Dir = smolvm.Env, smolvm.Dir
	said, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil || !strings.Contains(string(said), "look at this computer's network") {
		t.Errorf("%v: %s", err, said)
	}
}

// TestOwnBuildOfAPublishedPreset builds Claude Code here although it is published,
// and wants the same agent.
func TestOwnBuildOfAPublishedPreset(t *testing.T) {
	needLong(t)
	w := theWorld.fresh(t, theWorld.address)
	w.env = append(w.env, "SMOLVM_USE_PUBLISHED=0")
	w.bound = longBuild
	got := w.run(t, nil, "claude", "start", "-n", "own", "--no-mount", "--", "--version")
	if got.status != 0 || !strings.HasPrefix(got.stdout, publishedVersion(t)+" ") {
		t.Fatalf("status %d, stdout %q, stderr %s", got.status, got.stdout, got.stderr)
	}
	if !strings.Contains(got.stderr, "SMOLVM_USE_PUBLISHED asks for it") {
		t.Errorf("nobody was told why: %s", got.stderr)
	}
	defer w.remove("own")
	published := theWorld.common(t)
	want := promise{agent: []string{"claude", "--version"}, version: publishedVersion(t)}
	conform(t, w, "own", want)
	conform(t, theWorld, published, want)
	for _, script := range []string{
		"cat ~/.claude.json", "cat ~/.claude/settings.json", "stat -c '%n %U %a' ~/.claude.json ~/.claude",
		"find /opt/claude-code -type f | sort | sha256sum",
	} {
		here := w.must(t, "exec", "own", "--", "sh", "-c", script)
		if there := theWorld.must(t, "exec", published, "--", "sh", "-c", script); here != there {
			t.Errorf("%s:\nbuilt here %q\npublished  %q", script, here, there)
		}
	}
}
