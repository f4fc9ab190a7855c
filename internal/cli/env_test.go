package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
)

func envWorld(t *testing.T) *fakeWorld {
	w := newWorld(t)
	w.add("box", sandbox.Stopped)
	w.environ = map[string]string{"TOKEN": "of mine", "ANTHROPIC_API_KEY": "sk-secret"}
	w.variables = map[string][]string{"box": {"MODE=test", "TOKEN"}}
	w.app.AllPresets = func() ([]preset.Preset, error) {
		all := fakePresets()
		all[0].Environment = []string{"ANTHROPIC_API_KEY"}
		return all, nil
	}
	return w
}

func TestEnvCommands(t *testing.T) {
	for line, c := range map[string]want{
		"env list box":        {out: "VARIABLE  VALUE\nMODE      test\nTOKEN     (yours, at each start)\n"},
		"env set box A=1 B=":  {errs: "the agent of box gets: A, B", log: []string{"environment box set=[A=1 B=] unset=[] values=map[A:1 B:]"}},
		"env set box A=1 A=2": {errs: "gets: A\n", log: []string{"environment box set=[A=2] unset=[] values=map[A:2]"}},
		"env set box ANTHROPIC_API_KEY": {
			errs: "gets: ANTHROPIC_API_KEY",
			log:  []string{"environment box set=[ANTHROPIC_API_KEY] unset=[] values=map[]"},
		},
		"env set box ANTHROPIC_API_KEY=sk-1": {status: 2, errs: "ANTHROPIC_API_KEY is a credential, which is not kept on a disk"},
		"env set box NOWHERE":                {status: 2, errs: "variable NOWHERE is not set here"},
		"env set box 1x=2":                   {status: 2, errs: "is not the name of a variable"},
		"env set box":                        {status: 2, errs: "Usage"},
		"env set bix A=1":                    {status: 3, errs: "Did you mean box?"},
		"env unset box MODE":                 {errs: "does not get any more: MODE", log: []string{"environment box set=[] unset=[MODE] values=map[]"}},
		"env unset box MODEL":                {status: 2, errs: "Did you mean MODE?"},
		"env set box BIG=" + strings.Repeat("x", maxVariables): {status: 2, errs: "at most 16384 are possible"},
	} {
		w := envWorld(t)
		w.run(t, line, c)
	}
}

// What is kept reaches the agent at the next start: over the settings, under -e.
func TestKeptVariablesAreGivenAtStart(t *testing.T) {
	w := envWorld(t)
	w.variables["box"] = []string{"MODE=test", "OTHER=kept", "TOKEN", "UNSET_HERE"}
	if status := w.app.Main(strings.Fields("start box --no-attach -e OTHER=flag")); status != 0 {
		t.Fatalf("status %d: %s", status, &w.errs)
	}
	got := w.given.Env
	if len(got) != 3 || got["MODE"] != "test" || got["OTHER"] != "flag" || got["TOKEN"] != "of mine" {
		t.Errorf("the agent got %v", got)
	}
	said := w.errs.String()
	if !strings.Contains(said, "UNSET_HERE is not set here") || strings.Contains(said, "of mine") {
		t.Errorf("said: %s", said)
	}
}

func TestEnvListOfNothing(t *testing.T) {
	w := envWorld(t)
	w.variables = nil
	w.run(t, "env list box", want{errs: "No variables are kept for box"})
	if !slices.Equal(variablesOf(nil), []variableView{}) {
		t.Error("JSON has null for an empty list")
	}
}
