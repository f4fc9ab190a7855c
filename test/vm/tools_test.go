//go:build vm

package vm_test

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pageFiles are a project with a page that vite serves and packs.
var pageFiles = map[string]string{
	"package.json": `{"name": "page", "private": true, "type": "module", "devDependencies": {"vite": "6.3.5"}}`,
	"index.html":   "<!doctype html>\n<title>One</title>\n<script type=\"module\" src=\"/main.js\"></script>\n",
	"main.js":      "import { name } from './name.js'\ndocument.title = name\n",
	"name.js":      "export const name = 'one'\n",
}

// countFiles are a project that pytest looks at: one test passes, one fails, one
// writes files.
var countFiles = map[string]string{
	"count.py": "def twice(n):\n    return n + n\n",
	"test_count.py": `import count, sqlite3
def test_right(): assert count.twice(2) == 4
def test_wrong(): assert count.twice(2) == 5
def test_kept(tmp_path):
    with sqlite3.connect("kept.db") as db:
        db.execute("create table if not exists t(n)"); db.execute("insert into t values(1)")
    (tmp_path / "f").write_text("x"); assert (tmp_path / "f").read_text() == "x"
`,
}

// crateFiles are a workspace of a library and of a program that uses it.
var crateFiles = map[string]string{
	"Cargo.toml":          "[workspace]\nmembers = [\"greeting\", \"greeter\"]\nresolver = \"2\"\n",
	"greeting/Cargo.toml": "[package]\nname = \"greeting\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
	"greeting/src/lib.rs": "pub fn hello() -> &'static str { \"hello\" }\n",
	"greeter/Cargo.toml":  "[package]\nname = \"greeter\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\ngreeting = { path = \"../greeting\" }\n",
	"greeter/src/main.rs": "fn main() { println!(\"{}\", greeting::hello()); }\n",
}

// What the tools do, in a project. Times and paths are taken out of what they say.
const (
	npmWork = `install() { npm ci --no-audit --no-fund --loglevel error | sed 's/ in [0-9.ms]*$//'; }
		install; npx vite build --logLevel error
		find node_modules -type f | sort | xargs sha256sum | sha256sum; find node_modules dist -printf '%P %y %m %l\n' | sort | sha256sum
		sha256sum dist/index.html dist/assets/*; install; npm ls | tail -n +2`
	pytestWork = `tests() { (~/tools/bin/python -m pytest -q "$@" || true) 2>&1 | sed 's/ in [0-9.]*s//; s/ at 0x[0-9a-f]*//'; }
		tests; tests --last-failed; sed -i 's/n + n/n + 30/' count.py; tests; cat .pytest_cache/v/cache/lastfailed
		python3 -c 'import sqlite3; print(sqlite3.connect("kept.db").execute("select sum(n) from t").fetchone())'`
	cargoWork = `build() { cargo build --offline 2>&1 | sed 's/ in [0-9.ms ]*$//; s/ (.*)//'; target/debug/greeter; }
		build; build; sed -i 's/"hello" }/"good day" }/' greeting/src/lib.rs; build; find target -type f -name 'greeter*' -perm -1 | sed 's/-[0-9a-f]*$//' | sort -u; cargo clean -q; ls`
)

// tooled is a sandbox for the tools, and a folder of this computer in it.
type tooled struct {
	*world
	name, top string
}

// TestToolsOnMounts lets the tools of three languages work in a mounted project, and
// do the same on the guest's own disk: what they say and make has to be the same. It
// needs a network that reaches their registries.
func TestToolsOnMounts(t *testing.T) {
	needLong(t)
	w := theWorld.as(t, theWorld.home)
	w.bound = longBuild
	m := tooled{w, "tools", t.TempDir()}
	w.must(t, "claude", "start", "-n", m.name, "--no-attach", "--memory", "2G", "--mount", m.top)
	t.Cleanup(func() { w.remove(m.name) })
	for _, p := range []project{
		{"page", pageFiles, "npm install --package-lock-only --no-audit --no-fund --loglevel error", npmWork, "vite@6.3.5"},
		{"count", countFiles, "uv venv -q ~/tools; uv pip install -q --python ~/tools/bin/python pytest", pytestWork, "1 failed, 2 passed"},
		{"crate", crateFiles, `sudo apt-get update -qq; sudo DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends cargo gcc libc6-dev >/dev/null
			cargo generate-lockfile --offline`, cargoWork, "good day"},
	} {
		t.Run(p.name, func(t *testing.T) { m.same(t, p) })
	}
	t.Run("vite", m.vite)
}

// project is one that a tool works in.
type project struct {
	name          string
	files         map[string]string
	prepare, work string // shell
	says          string // which the work has to say
}

// same does the work of a project on both sides.
func (m tooled) same(t *testing.T, p project) {
	for path, text := range p.files {
		at := filepath.Join(m.top, p.name, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in := func(folder, script string) string {
		return m.must(t, "exec", "-w", folder, m.name, "--", "sh", "-ec", script)
	}
	in("/workspace/"+p.name, p.prepare)
	in("/workspace", "mkdir -p ~/own; cp -a "+p.name+" ~/own")
	own, here := in("/home/agent/own/"+p.name, p.work), in("/workspace/"+p.name, p.work)
	if own != here || !strings.Contains(here, p.says) {
		t.Errorf("on the guest's own disk:\n%s\non the mount:\n%s", own, here)
	}
}

// vite's server watches the page, of which this computer changes files.
func (m tooled) vite(t *testing.T) {
	cmd := m.command(t.Context(), "exec", "-w", "/workspace/page", m.name, "--",
		"npx", "vite", "--host", "127.0.0.1", "--port", "5199", "--clearScreen", "false")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	says := func(part string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), part) {
				return
			}
		}
		t.Fatalf("vite ended without %q", part)
	}
	says("http://127.0.0.1:5199/")
	ask := func(path string) string {
		return m.must(t, "exec", m.name, "--", "curl", "-sS", "http://127.0.0.1:5199/"+path)
	}
	ask("main.js") // it watches everything, and tells of what somebody has asked for
	ask("name.js")
	for path, text := range map[string]string{"index.html": "<!doctype html><title>Two</title>", "name.js": "export const name = 'two'\n"} {
		if err := os.WriteFile(filepath.Join(m.top, "page", path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		says("page reload " + path)
		if got := ask(path); !strings.Contains(strings.ToLower(got), "two") {
			t.Errorf("vite serves %s as %s", path, got)
		}
	}
}
