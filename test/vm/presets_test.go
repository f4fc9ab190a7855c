//go:build vm

package vm_test

import (
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// agentTime is how long an agent may take to its first screen, and OpenClaw's
// gateway to its first answer: minutes where the processor is emulated and busy.
const (
	agentTime   = 4 * time.Minute
	gatewayTime = 25 * time.Minute
)

// impression is what an agent's first screen is known by. No credential is given: an
// agent may say that it has none, but nothing else may be asked.
type impression struct {
	prepare string // a script that is run before, as the user
	shows   string // with full permissions
	asking  string // with --ask
	full    string // shown with full permissions only; empty: see asking
}

var impressions = map[string]impression{
	"claude-code": {shows: `Claude Code v.*(?s).*bypass permissions on`, asking: `Claude Code v.*(?s).*❯`, full: `bypass permissions`},
	"codex": {
		// Signing in is a question of its own, answered by a key that is of no account.
		prepare: `echo sk-of-no-account | codex login --with-api-key`,
		shows:   `YOLO mode`, asking: `Ask Codex to do anything`, full: `YOLO`,
	},
	"hermes": {shows: `(?s)Welcome to Hermes Agent.*⚠ YOLO`, asking: `Welcome to Hermes Agent`, full: `YOLO`},
	"pi": {
		// What Pi asks is whether the workspace's own settings are trusted.
		prepare: `mkdir -p /workspace/.pi; echo '{}' >/workspace/.pi/settings.json`,
		shows:   `pi v\d(?s).*\(auto\)`, asking: `Trust project folder\?`,
	},
}

// questions are those that an agent asks when it runs for the first time.
var questions = regexp.MustCompile(`(?i)(choose|select|pick)[^\n]*(theme|style)|trust (the|this|project|parent)|do you trust|onboarding|` +
	`run setup|setup now|let's get started|accept the (risk|terms)|\[y/n\]|sign in with|bypass permissions mode, claude`)

// TestFirstScreens runs each agent on a terminal and looks at its first screen.
func TestFirstScreens(t *testing.T) {
	for _, row := range published(t).Rows {
		expected, known := impressions[row.Preset]
		if row.Arch != runtime.GOARCH || row.VMM != "qemu" || !known {
			continue
		}
		t.Run(row.Preset, func(t *testing.T) {
			if row.Preset != "claude-code" {
				needLong(t)
			}
			seen := firstScreen(t, row.Preset, expected.prepare, expected.shows)
			if found := questions.FindString(seen); found != "" {
				t.Errorf("it asks %q:\n%s", found, seen)
			}
			if needed := firstScreen(t, row.Preset, expected.prepare, expected.asking, "--ask"); expected.full != "" && regexp.MustCompile(expected.full).MatchString(needed) {
				t.Errorf("with --ask it has full permissions:\n%s", needed)
			}
		})
	}
}

func firstScreen(t *testing.T, word, prepare, shows string, flags ...string) string {
	t.Helper()
	w, name := theWorld, "screen-"+word
	w.must(t, append([]string{word, "start", "-n", name, "--no-mount", "--no-attach"}, flags...)...)
	defer w.remove(name)
	if prepare != "" {
		w.must(t, "exec", name, "--", "sh", "-euc", prepare)
	}
	s := w.onScreen(t, "attach", name)
	defer s.close()
	seen, err := s.until(shows, agentTime)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("smolvm %s start %s:\n%s", word, strings.Join(flags, " "), seen)
	return seen
}

// TestEveryPresetIsLookedAt: a preset without a known first screen has a case of its own.
func TestEveryPresetIsLookedAt(t *testing.T) {
	for _, p := range shipped(t) {
		if _, known := impressions[p.Name]; !known && len(p.Services) == 0 {
			t.Errorf("nobody looks at the first screen of %s", p.Name)
		}
	}
}

// TestService is OpenClaw's: its gateway answers on the declared port, comes back
// when it was killed, and is stopped in order.
func TestService(t *testing.T) {
	needLong(t)
	w, name := theWorld, "service"
	w.must(t, "openclaw", "start", "-n", name, "--no-mount", "--no-attach")
	defer w.remove(name)
	info := w.must(t, "info", name)
	for _, want := range []string{"18789 in the sandbox", "gateway: /opt/openclaw/gateway"} {
		if !strings.Contains(info, want) {
			t.Errorf("info does not say %q:\n%s", want, info)
		}
	}
	w.inLog(t, name, `answers on port 18789 after`, 1)
	page := w.must(t, "exec", name, "--", "curl", "--silent", "--show-error", "--fail", "--max-time", "60", "http://127.0.0.1:18789/")
	if !strings.Contains(page, "<title>OpenClaw Control</title>") {
		t.Errorf("the port answers with %.200q", page)
	}
	address := strings.TrimSpace(w.must(t, "openclaw", "open", "--print", name))
	host, token, found := strings.Cut(address, "/#token=")
	if env := w.must(t, "exec", name, "--", "cat", "/home/agent/.openclaw/.env"); !found || !strings.Contains(env, "TOKEN="+token+"\n") {
		t.Errorf("open says %s, the sandbox has another token", address)
	}
	answer, err := http.Get(host + "/")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("%s answers with %s", host, answer.Status)
	}
	log := w.inLog(t, name, `started as process \d+`, 1)
	pids := regexp.MustCompile(`started as process (\d+)`).FindAllStringSubmatch(log, -1)
	w.must(t, "exec", name, "--", "kill", "-9", pids[len(pids)-1][1])
	w.inLog(t, name, `was ended by signal 9`, 1)
	w.inLog(t, name, `answers on port 18789 after`, 2)
	seen, err := w.onScreen(t, "attach", name).until(`gateway connected`, gatewayTime)
	if err != nil {
		t.Error(err)
	}
	if found := questions.FindString(seen); found != "" {
		t.Errorf("its terminal interface asks %q:\n%s", found, seen)
	}
	w.must(t, "stop", "--timeout", "30s", name)
	w.must(t, "start", name, "--no-attach")
	w.inLog(t, name, `smolvm: stopped: `, 1)
}

// inLog waits until the log of the gateway has so many matches, and gives all of it.
func (w *world) inLog(t *testing.T, name, expression string, times int) string {
	t.Helper()
	pattern := regexp.MustCompile(expression)
	for deadline := time.Now().Add(gatewayTime); ; time.Sleep(2 * time.Second) {
		log := w.must(t, "logs", "--service", "gateway", name)
		if len(pattern.FindAllString(log, -1)) >= times {
			return log
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %q, %d times, in\n%s", gatewayTime, expression, times, log)
		}
	}
}

// TestAskKeepsOpenClawsPrompts: its policy for commands is in a configuration of its own.
func TestAskKeepsOpenClawsPrompts(t *testing.T) {
	needLong(t)
	for leg, c := range map[string]struct {
		flags []string
		want  string
	}{
		"full":   {nil, "ask=off"},
		"asking": {[]string{"--ask"}, "ask=on-miss"},
	} {
		t.Run(leg, func(t *testing.T) { openClawsPolicy(t, c.flags, c.want) })
	}
}

// openClawsPolicy asks OpenClaw for its policy. Where its gateway takes longer than an
// agent waits for it, as it does emulated, a user looks at its log first.
func openClawsPolicy(t *testing.T, flags []string, want string) {
	w, name := theWorld, "policy"
	w.must(t, append([]string{"openclaw", "start", "-n", name, "--no-mount", "--no-attach"}, flags...)...)
	defer w.remove(name)
	service := w.inLog(t, name, `answers on port 18789 after`, 1)
	if strings.Contains(service, "ask.json") != (flags != nil) {
		t.Errorf("start %s: the gateway has another configuration:\n%s", flags, service)
	}
	if out := w.asked(t, name, "exec-policy", "show"); !strings.Contains(out, want) {
		t.Errorf("start %s: the policy is not %s:\n%s", flags, want, out)
	}
}

// asked runs a program of OpenClaw beside its gateway. Where the gateway keeps their
// common state longer than the 5 s for which OpenClaw's programs wait, as it does on a
// slow host after its first answer too, it is asked again.
func (w *world) asked(t *testing.T, name string, args ...string) string {
	t.Helper()
	defer func(before time.Duration) { w.bound = before }(w.bound)
	w.bound = gatewayTime
	for deadline := time.Now().Add(gatewayTime); ; {
		r := w.run(t, nil, append([]string{"attach", name, "--"}, args...)...)
		if r.status == 0 {
			return r.stdout
		}
		if !strings.Contains(r.stderr, "owns state-lifecycle") || time.Now().After(deadline) {
			t.Fatalf("openclaw %s: status %d, %s", strings.Join(args, " "), r.status, r.stderr)
		}
		t.Logf("asked again, as OpenClaw said: %s", tail(r.stderr))
	}
}
