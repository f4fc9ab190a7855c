package cli

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

const token = "tok-1234567890"

// userWorld has a user with a login, a variable and a configuration of her own.
func userWorld(t *testing.T) *fakeWorld {
	t.Helper()
	w := newWorld(t)
	home, user := t.TempDir(), t.TempDir()
	w.environ = map[string]string{"ANTHROPIC_API_KEY": token, "TZ": "Asia/Tokyo"}
	w.app.UserHome = user
	w.app.rooms.Config = func() (config.Config, error) {
		return config.Load([]string{
			"SMOLVM_HOME=" + home, "ANTHROPIC_API_KEY=" + token, "TZ=Asia/Tokyo",
		}, "")
	}
	w.app.rooms.AllPresets = func() ([]preset.Preset, error) {
		all := fakePresets()
		all[0].Agent.Name = "Claude Code"
		all[0].Environment = []string{"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}
		all[0].Logins = []preset.Login{{File: ".claude/.credentials.json"}, {File: ".claude/missing"}}
		return all, nil
	}
	writeLogin(t, user, `{"token":"`+token+`"}`)
	return w
}

func loginPath(user string) string { return filepath.Join(user, ".claude", ".credentials.json") }

func writeLogin(t *testing.T, user, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(loginPath(user)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(loginPath(user), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sit puts a person at the terminal who types what follows.
func (w *fakeWorld) sit(typed string) {
	w.app.Streams.In, w.app.Streams.InTTY, w.app.Streams.OutTTY = strings.NewReader(typed), true, true
}

func (w *fakeWorld) names(t *testing.T) (env, logins []string) {
	t.Helper()
	if w.given == nil {
		t.Fatal("nothing was given")
	}
	for _, name := range []string{"ANTHROPIC_API_KEY", "TZ", "A", "B"} {
		if _, ok := w.given.Env[name]; ok {
			env = append(env, name)
		}
	}
	for _, l := range w.given.Logins {
		logins = append(logins, l.Path)
	}
	return env, logins
}

// A person is asked once, the answer is remembered, and it holds without a
// terminal too; where nobody was asked nothing is given.
func TestAskedOnce(t *testing.T) {
	w := userWorld(t)
	start := []string{"claude", "start", "--no-attach", "--no-mount", "--new"}
	if status := w.app.Main(start); status != 0 {
		t.Fatal(w.errs.String())
	}
	if env, logins := w.names(t); env != nil || logins != nil {
		t.Errorf("without a terminal, %v and %v were given", env, logins)
	}
	w.sit("y\n")
	if status := w.app.Main(start); status != 0 {
		t.Fatal(w.errs.String())
	}
	for _, part := range []string{"ANTHROPIC_API_KEY (variable)", "~/.claude/.credentials.json (login)", "Give them to claude-code from now on?"} {
		if !strings.Contains(w.errs.String(), part) {
			t.Errorf("%s does not say %q", w.errs.String(), part)
		}
	}
	want := func() {
		t.Helper()
		env, logins := w.names(t)
		if d := cmp.Diff([][]string{{"ANTHROPIC_API_KEY"}, {".claude/.credentials.json"}}, [][]string{env, logins}); d != "" {
			t.Error(d)
		}
	}
	want()
	w.given = nil
	w.errs.Reset()
	w.app.Streams.InTTY = false
	if status := w.app.Main(start); status != 0 || strings.Contains(w.errs.String(), "from now on?") {
		t.Fatal(w.errs.String())
	}
	want()
	if !strings.Contains(w.errs.String(), "The agent gets of yours: ANTHROPIC_API_KEY, ~/.claude/.credentials.json.") {
		t.Errorf("it is not shown: %s", w.errs.String())
	}
	w.noSecrets(t)
}

// noSecrets looks through all that was said and recorded.
func (w *fakeWorld) noSecrets(t *testing.T) {
	t.Helper()
	c, _ := w.app.Config()
	raw, _ := os.ReadFile(c.File)
	for what, text := range map[string]string{
		"stdout": w.out.String(), "stderr": w.errs.String(), "log": strings.Join(w.log, "\n"), "configuration": string(raw),
	} {
		if strings.Contains(text, token) {
			t.Errorf("%s holds the secret: %s", what, text)
		}
	}
}

func TestAskedAndNo(t *testing.T) {
	w := userWorld(t)
	w.sit("n\n")
	for range 2 { // the second time nobody is asked: there is nothing more to read
		if status := w.app.Main([]string{"claude", "start", "--no-attach", "--no-mount", "--new"}); status != 0 {
			t.Fatal(w.errs.String())
		}
		if env, logins := w.names(t); env != nil || logins != nil {
			t.Errorf("%v and %v were given", env, logins)
		}
	}
	if n := strings.Count(w.errs.String(), "from now on?"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if d := cmp.Diff([]string{".claude/.credentials.json", ".claude/missing"}, w.given.Withdrawn); d != "" {
		t.Error(d)
	}
}

func TestGivenByFlags(t *testing.T) {
	for _, c := range []struct {
		line   string
		status int
		env    map[string]string
		says   string
	}{
		{"-e A=1 -e TZ", 0, map[string]string{"A": "1", "TZ": "Asia/Tokyo"}, "The agent gets of yours: A, TZ."},
		{"--no-credentials -e A=1=2", 0, map[string]string{"A": "1=2"}, ""},
		{"-e MISSING", 125, nil, "variable MISSING is not set here"},
		{"-e 1A=x", 125, nil, "not the name of a variable"},
		{"--env-file /nowhere/x", 125, nil, "/nowhere/x"},
		{"-e A=" + strings.Repeat("x", 70000), 125, nil, "at most"},
	} {
		w := userWorld(t)
		status := w.app.Main(append([]string{"claude", "start", "--no-attach", "--no-mount"}, strings.Fields(c.line)...))
		if status != c.status || !strings.Contains(w.errs.String(), c.says) {
			t.Errorf("%.40s: status %d, %s", c.line, status, w.errs.String())
		}
		if c.status != 0 {
			if len(w.log) > 0 {
				t.Errorf("%.40s: work was done: %v", c.line, w.log)
			}
			continue
		}
		if d := cmp.Diff(c.env, w.given.Env); d != "" {
			t.Errorf("%s: %s", c.line, d)
		}
	}
}

// A sandbox that runs gets what the flags name; --no-credentials cannot be had then.
func TestGivenToRunning(t *testing.T) {
	w := userWorld(t)
	w.add("box", sandbox.Running)
	if status := w.app.Main([]string{"start", "--no-attach", "box", "-e", "A=1"}); status != 0 || w.given.Env["A"] != "1" {
		t.Errorf("%v, %s", w.given, w.errs.String())
	}
	if status := w.app.Main([]string{"start", "--no-attach", "box", "--no-credentials"}); status != 125 {
		t.Errorf("status %d, %s", status, w.errs.String())
	}
}

// A key is no login, whatever a list or a link says.
func TestNeverKeys(t *testing.T) {
	w := userWorld(t)
	ssh := filepath.Join(w.app.UserHome, ".ssh")
	if err := os.Mkdir(ssh, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(ssh, "id"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(loginPath(w.app.UserHome)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(ssh, "id"), loginPath(w.app.UserHome)); err != nil {
		t.Fatal(err)
	}
	if status := w.app.Main([]string{"config", "set", "preset.claude.credentials", "~/.claude/.credentials.json"}); status != 0 {
		t.Fatal(w.errs.String())
	}
	status := w.app.Main([]string{"claude", "start", "--no-attach", "--no-mount"})
	if status == 0 || !strings.Contains(w.errs.String(), "nothing of ~/.ssh is ever passed") || len(w.log) > 0 {
		t.Errorf("status %d, %v, %s", status, w.log, w.errs.String())
	}
}

func TestCopyBack(t *testing.T) {
	old := `{"token":"` + token + `"}`
	for name, c := range map[string]struct {
		on                  bool
		given, theirs, here string
		want, says          string
	}{
		"off":             {false, old, `{"token":"new"}`, old, old, ""},
		"renewed":         {true, old, `{"token":"new"}`, old, `{"token":"new"}`, "copied back"},
		"as it was":       {true, old, old, old, old, ""},
		"changed on both": {true, old, `{"token":"new"}`, `{"token":"mine"}`, `{"token":"mine"}`, "changed here too"},
		"no JSON":         {true, old, "rm -rf", old, old, "no login any more"},
		"emptied":         {true, old, "", old, old, "no login any more"},
	} {
		t.Run(name, func(t *testing.T) {
			w := userWorld(t)
			writeLogin(t, w.app.UserHome, c.here)
			if c.on {
				w.app.Main([]string{"config", "set", "preset.claude-code.copy_back", "true"})
			}
			w.add("box", sandbox.Running)
			w.logins = []supervise.Login{{LoginFile: wire.LoginFile{Path: ".claude/.credentials.json", Content: []byte(c.theirs)}, Given: fmt.Sprintf("%x", sha256.Sum256([]byte(c.given)))}}
			if status := w.app.Main([]string{"attach", "box"}); status != 0 {
				t.Fatal(w.errs.String())
			}
			raw, err := os.ReadFile(loginPath(w.app.UserHome))
			if string(raw) != c.want || err != nil || !strings.Contains(w.errs.String(), c.says) {
				t.Errorf("it is %s, %v; said %s", raw, err, w.errs.String())
			}
			info, _ := os.Stat(loginPath(w.app.UserHome))
			if info.Mode().Perm() != 0o600 {
				t.Errorf("its mode is %v", info.Mode())
			}
			left, _ := filepath.Glob(filepath.Join(w.app.UserHome, ".claude", ".smolvm-*"))
			if left != nil {
				t.Errorf("left %v", left)
			}
		})
	}
}

// The SSH agent is forwarded on request only, and where there is one.
func TestSSHAgentOnlyByFlag(t *testing.T) {
	for _, c := range []struct {
		line, socket, want, says string
	}{
		{"exec box true", "/run/agent", "", ""},
		{"exec --ssh-agent box true", "/run/agent", "/run/agent", ""},
		{"attach --ssh-agent box", "/run/agent", "/run/agent", ""},
		{"start --attach --ssh-agent box", "/run/agent", "/run/agent", ""},
		{"attach box", "/run/agent", "", ""},
		{"attach --ssh-agent box", "", "none", "no SSH agent runs here"},
		{"claude start --ssh-agent --attach", "", "none", "no SSH agent runs here"},
		{"attach --ssh-agent box", "agent", "none", "not a whole path"},
		{"start --no-attach --ssh-agent box", "/run/agent", "none", "nothing is attached"},
		{"start --ssh-agent box", "/run/agent", "none", "nothing is attached"},
	} {
		w := newWorld(t)
		w.environ = map[string]string{"SSH_AUTH_SOCK": c.socket}
		w.add("box", sandbox.Running)
		got := "none"
		w.program = func(command supervise.Command, _ supervise.Streams) (int, error) {
			got = command.SSHAgentAt
			return 0, nil
		}
		w.app.Main(strings.Fields(c.line))
		if got != c.want || !strings.Contains(w.errs.String(), c.says) {
			t.Errorf("%s with %q: %q was forwarded; said %s", c.line, c.socket, got, w.errs.String())
		}
	}
}
