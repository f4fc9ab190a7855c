package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// keepWorld is userWorld with a preset that has a rule for the key.
func keepWorld(t *testing.T, environ ...string) *fakeWorld {
	t.Helper()
	w := userWorld(t)
	home := t.TempDir()
	w.app.rooms.Config = func() (config.Config, error) {
		return config.Load(append([]string{"SMOLVM_HOME=" + home, "ANTHROPIC_API_KEY=" + token, "OTHER=" + token + "-2"}, environ...), "")
	}
	all, err := w.app.AllPresets()
	if err != nil {
		t.Fatal(err)
	}
	all[0].Credentials = []preset.Credential{{Name: "ANTHROPIC_API_KEY", Host: "api.anthropic.com", Header: "x-api-key", Prefix: "sk-ant-", Address: "ANTHROPIC_BASE_URL"}}
	w.app.rooms.AllPresets = func() ([]preset.Preset, error) { return all, nil }
	return w
}

func secretOf(value, host string, port uint16) []escrow.Secret {
	return []escrow.Secret{{Name: "ANTHROPIC_API_KEY", Value: value, Prefix: "sk-ant-", Rules: []escrow.Rule{{Host: host, Port: port, Header: "x-api-key"}}}}
}

func TestKeptFromTheSandbox(t *testing.T) {
	const kept = "Kept from the sandbox, which gets placeholders: ANTHROPIC_API_KEY for api.anthropic.com."
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(token+"-file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		listed, off bool
		environ     []string
		line        string
		env         map[string]string
		kept        []escrow.Secret
		sources     []string
		says        string
	}{
		"listed":            {listed: true, kept: secretOf(token, "api.anthropic.com", 443), says: kept},
		"listed, raw by -e": {listed: true, line: "-e ANTHROPIC_API_KEY", env: map[string]string{"ANTHROPIC_API_KEY": token}, says: "The agent gets of yours: ANTHROPIC_API_KEY."},
		"switched off":      {listed: true, off: true, env: map[string]string{"ANTHROPIC_API_KEY": token}, says: "The agent gets of yours: ANTHROPIC_API_KEY."},
		"no network":        {listed: true, line: "--network off", env: map[string]string{"ANTHROPIC_API_KEY": token}},
		"a proxy": {
			listed: true, environ: []string{"https_proxy=http://10.1.2.3:3128"}, env: map[string]string{"ANTHROPIC_API_KEY": token},
			says: "ANTHROPIC_API_KEY goes into the sandbox itself: https_proxy has programs",
		},
		"another address": {
			listed: true, line: "-e ANTHROPIC_BASE_URL=https://LLM.example.com:8443/v1", env: map[string]string{"ANTHROPIC_BASE_URL": "https://LLM.example.com:8443/v1"},
			kept: secretOf(token, "llm.example.com", 8443), says: "ANTHROPIC_API_KEY for llm.example.com:8443",
		},
		"an address without TLS": {
			listed: true, line: "-e ANTHROPIC_BASE_URL=http://llm.example.com", env: map[string]string{"ANTHROPIC_BASE_URL": "http://llm.example.com", "ANTHROPIC_API_KEY": token},
			says: "goes into the sandbox itself: ANTHROPIC_BASE_URL has the agent use what is no https:// address",
		},
		"named": {
			line: "--credential ANTHROPIC_API_KEY=env:OTHER", kept: secretOf(token+"-2", "api.anthropic.com", 443),
			sources: []string{"ANTHROPIC_API_KEY=env:OTHER"}, says: kept,
		},
		"named over the list": {
			listed: true, line: "--credential ANTHROPIC_API_KEY=env:OTHER", kept: secretOf(token+"-2", "api.anthropic.com", 443),
			sources: []string{"ANTHROPIC_API_KEY=env:OTHER"}, says: kept,
		},
		"file": {
			line: "--credential ANTHROPIC_API_KEY=file:" + file, kept: secretOf(token+"-file", "api.anthropic.com", 443),
			sources: []string{"ANTHROPIC_API_KEY=file:" + file}, says: "chmod 600",
		},
		"none": {listed: true, line: "--no-credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			w := keepWorld(t, c.environ...)
			conf, _ := w.app.Config()
			if c.listed {
				if _, err := conf.Set(t.Context(), "preset.claude-code.credentials", []string{"ANTHROPIC_API_KEY"}); err != nil {
					t.Fatal(err)
				}
			}
			if c.off {
				if _, err := conf.Set(t.Context(), "preset.claude-code.credential_proxy", []string{"false"}); err != nil {
					t.Fatal(err)
				}
			}
			if status := w.app.Main(append([]string{"claude", "start", "--no-attach", "--no-mount"}, strings.Fields(c.line)...)); status != 0 {
				t.Fatal(w.errs.String())
			}
			if c.env == nil {
				c.env = map[string]string{}
			}
			if d := cmp.Diff(c.env, w.given.Env); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.kept, w.kept); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.sources, w.sources); d != "" {
				t.Error(d)
			}
			if !strings.Contains(w.errs.String(), c.says) {
				t.Errorf("it does not say %q: %s", c.says, w.errs.String())
			}
			w.noSecrets(t)
		})
	}
}

func TestCredentialsThatCannotBeKept(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "short"), []byte("tiny\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, says := range map[string]string{
		"--credential " + token:                                                                         "neither name nor source",
		"--credential ANTHROPIC_API_KEY=" + token:                                                       "says no source",
		"--credential ANTHROPIC_API_KEY=env:":                                                           "says no source",
		"--credential ANTHROPIC_API_KEY=http://x":                                                       "says no source",
		"--credential TZ=env:TZ":                                                                        "has no rule that says where it belongs",
		"--credential ANTHROPIC_API_KEY=env:MISSING":                                                    "the variable is not set here\n  hint: Set it in this shell (export MISSING), or name another source: ANTHROPIC_API_KEY=file:PATH",
		"--credential ANTHROPIC_API_KEY=file:/nowhere":                                                  "no such file or directory\n  hint: Name a file with nothing but the secret in it, which you can read.",
		"--credential ANTHROPIC_API_KEY=file:" + folder:                                                 "not a regular file",
		"--credential ANTHROPIC_API_KEY=file:/dev/zero":                                                 "not a regular file",
		"--credential ANTHROPIC_API_KEY=keychain:x":                                                     "secret-tool",
		"--credential ANTHROPIC_API_KEY=env:SHORT":                                                      "it has 4 bytes",
		"--credential ANTHROPIC_API_KEY=env:SPACED":                                                     "printable ASCII",
		"--no-credentials --credential ANTHROPIC_API_KEY=env:OTHER":                                     "exclude each other",
		"--network off --credential ANTHROPIC_API_KEY=env:OTHER":                                        "no network",
		"-e ANTHROPIC_API_KEY=x --credential ANTHROPIC_API_KEY=env:OTHER":                               "puts it in",
		"-e ANTHROPIC_BASE_URL=http://x.example --credential ANTHROPIC_API_KEY=env:OTHER":               "no https:// address",
		"-e ANTHROPIC_BASE_URL=https://10.1.2.3 --credential ANTHROPIC_API_KEY=env:OTHER":               "whose host has no name",
		"--credential ANTHROPIC_API_KEY=env:OTHER --credential ANTHROPIC_API_KEY=env:ANTHROPIC_API_KEY": "there twice",
	} {
		w := keepWorld(t, "SHORT=tiny", "SPACED="+token+" x")
		status := w.app.Main(append([]string{"claude", "start", "--no-attach", "--no-mount"}, strings.Fields(line)...))
		if status != 125 || !strings.Contains(w.errs.String(), says) || len(w.log) > 0 {
			t.Errorf("%s: status %d, work %v, said %s", line, status, w.log, w.errs.String())
		}
		w.noSecrets(t)
	}
}

// TestKeptAgain takes the sources of the last start, and says when one is gone.
func TestKeptAgain(t *testing.T) {
	remember := func(w *fakeWorld, policy egress.Policy, sources ...string) {
		w.add("box", sandbox.Stopped)
		s := w.boxes["box"]
		s.Credentials, s.Network, s.Egress = sources, true, policy
		w.boxes["box"] = s
	}
	w := keepWorld(t)
	remember(w, egress.Policy{}, "ANTHROPIC_API_KEY=env:OTHER")
	start := []string{"start", "--no-attach", "box"}
	if status := w.app.Main(start); status != 0 {
		t.Fatal(w.errs.String())
	}
	if d := cmp.Diff(secretOf(token+"-2", "api.anthropic.com", 443), w.kept); d != "" {
		t.Error(d)
	}
	for _, c := range []struct {
		policy egress.Policy
		source string
		flags  string
		status int
		says   string
	}{
		{egress.Policy{}, "ANTHROPIC_API_KEY=env:GONE", "", 125, "read at every start"},
		{egress.Policy{}, "ANTHROPIC_API_KEY=env:GONE", "--credential ANTHROPIC_API_KEY=env:OTHER", 0, "Kept"},
		{egress.Policy{}, "ANTHROPIC_API_KEY=env:GONE", "--no-credentials", 0, ""},
		{egress.Policy{}, "ANTHROPIC_API_KEY=env:OTHER", "--no-credentials --credential ANTHROPIC_API_KEY=env:OTHER", 125, "exclude each other"},
		{egress.Policy{Mode: egress.Off}, "ANTHROPIC_API_KEY=env:OTHER", "", 125, "no network"},
	} {
		w := keepWorld(t)
		remember(w, c.policy, c.source)
		if status := w.app.Main(append(start, strings.Fields(c.flags)...)); status != c.status || !strings.Contains(w.errs.String(), c.says) {
			t.Errorf("%+v: status %d, %s", c, status, w.errs.String())
		}
		if c.flags == "--no-credentials" && (len(w.kept) > 0 || len(w.sources) != 1) {
			t.Errorf("without credentials: %v, remembered %v", w.kept, w.sources)
		}
	}
}

// TestForkSaysWhatIsKept: until its next start a fork cannot use it.
func TestForkSaysWhatIsKept(t *testing.T) {
	for _, line := range []string{"fork box", "fork box --json", "snapshot restore ready"} {
		w := keepWorld(t)
		w.add("box", sandbox.Running)
		s := w.boxes["box"]
		s.Credentials = []string{"ANTHROPIC_API_KEY=env:OTHER", "OTHER=file:/k"}
		w.boxes["box"] = s
		status := w.app.Main(strings.Fields(line))
		if says := "Kept here: ANTHROPIC_API_KEY, OTHER. For use in box-2, stop and start it."; status != 0 || !strings.Contains(w.errs.String(), says) {
			t.Errorf("%s: status %d, said %s", line, status, w.errs.String())
		}
	}
}

func TestRunningKeepsWhatItHas(t *testing.T) {
	w := keepWorld(t)
	w.add("box", sandbox.Running)
	s := w.boxes["box"]
	s.Network = true
	w.boxes["box"] = s
	conf, _ := w.app.Config()
	if _, err := conf.Set(t.Context(), "preset.claude-code.credentials", []string{"ANTHROPIC_API_KEY"}); err != nil {
		t.Fatal(err)
	}
	if status := w.app.Main([]string{"start", "--no-attach", "box", "--credential", "ANTHROPIC_API_KEY=env:OTHER"}); status != 125 || !strings.Contains(w.errs.String(), "--credential holds for a start") {
		t.Errorf("status %d, %s", status, w.errs.String())
	}
	if status := w.app.Main([]string{"start", "--no-attach", "box", "-e", "A=1"}); status != 0 || !strings.Contains(w.errs.String(), "stays as it was") {
		t.Errorf("status %d, %s", status, w.errs.String())
	}
	if d := cmp.Diff(map[string]string{"A": "1"}, w.given.Env); d != "" {
		t.Error(d)
	}
}
