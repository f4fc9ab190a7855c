package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

// codes are all codes with the exit status that docs/commands.md promises.
var codes = map[Code]int{
	Internal: 1, Usage: 2, NotFound: 3, Conflict: 4, NotRunning: 5, Host: 6,
	Network: 7, Trust: 8, Storage: 9, Boot: 10, Build: 11, Interrupted: 130,
}

func TestExit(t *testing.T) {
	for code, want := range codes {
		if got := code.Exit(); got != want {
			t.Errorf("%s exits with %d, want %d", code, got, want)
		}
	}
	if len(codes) != len(exits) {
		t.Errorf("%d codes have an exit status, %d are documented", len(exits), len(codes))
	}
	if got := Code("from the future").Exit(); got != 1 {
		t.Errorf("an unknown code exits with %d", got)
	}
}

func TestExitsDiffer(t *testing.T) {
	taken := map[int]Code{ExitSmolVM: "start", ExitCannotRun: "start", ExitNotThere: "start", 0: "success"}
	for code := range codes {
		if other, ok := taken[code.Exit()]; ok {
			t.Errorf("%s and %s exit with %d", code, other, code.Exit())
		}
		taken[code.Exit()] = code
	}
}

func TestNewWraps(t *testing.T) {
	f := New(Storage, "Free space.", "write %s: %w", "a.img", fs.ErrPermission)
	if f.Error() != "write a.img: permission denied" || !errors.Is(f, fs.ErrPermission) {
		t.Errorf("%q does not wrap its cause", f)
	}
}

func TestCodeOf(t *testing.T) {
	inner := New(Trust, "", "bad signature")
	for _, c := range []struct {
		name string
		err  error
		want Code
	}{
		{"none", nil, Internal},
		{"plain", errors.New("x"), Internal},
		{"fault", inner, Trust},
		{"wrapped", fmt.Errorf("fetch: %w", inner), Trust},
		{"outermost wins", New(Network, "", "get: %w", inner), Network},
		{"joined", errors.Join(errors.New("x"), inner), Trust},
		{"cancelled", fmt.Errorf("get: %w", context.Canceled), Interrupted},
		{"fault before cancelled", New(Boot, "", "wait: %w", context.Canceled), Boot},
		{"deadline is no interruption", context.DeadlineExceeded, Internal},
	} {
		if got := CodeOf(c.err); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestHintOf(t *testing.T) {
	inner := New(Trust, "inner", "x")
	for _, c := range []struct {
		name, want string
		err        error
	}{
		{"none", "", nil},
		{"plain", "", errors.New("x")},
		{"own", "inner", inner},
		{"wrapped", "inner", fmt.Errorf("a: %w", fmt.Errorf("b: %w", inner))},
		{"outer first", "outer", New(Network, "outer", "y: %w", inner)},
		{"outer without one", "inner", New(Network, "", "y: %w", inner)},
	} {
		if got := HintOf(c.err); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
