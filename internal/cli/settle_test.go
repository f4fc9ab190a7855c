package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/vmm"
)

// withFirecracker makes a computer on which Firecracker would be chosen.
func withFirecracker(t *testing.T, named bool) *fakeWorld {
	w := newWorld(t)
	w.rows = append(w.rows, w.rows[0])
	w.rows[1].VMM = config.Firecracker
	w.app.Machine = func(string, string) (machine, error) {
		return machine{arch: "amd64", vmm: config.Firecracker, named: named, cpus: 64, memoryMiB: 8192}, nil
	}
	w.app.Accel = func(_ context.Context, m machine, _ manifest.Row, _ record.Image) (vmm.Accel, string, error) {
		if m.vmm == config.Firecracker {
			return vmm.KVM, "", nil
		}
		return vmm.TCG, "KVM runs no guest", nil
	}
	w.app.Program = func(_ context.Context, m machine) (*record.Program, error) {
		if m.vmm != config.Firecracker {
			return nil, nil //nolint:nilnil // nothing is kept of QEMU
		}
		return &record.Program{Path: "/opt/firecracker", Version: "1.12.1", SHA256: "aa", Asked: m.named}, nil
	}
	return w
}

// TestSettled: Firecracker runs what it can; else QEMU does, and one line says which
// sign was seen. Where Firecracker was asked for, the start is refused before anything
// is downloaded.
func TestSettled(t *testing.T) {
	old := fault.New(fault.Host, "Install it.", "/opt/firecracker is version 1.9.0, older than 1.10")
	useless := fault.New(fault.Host, "", "backend firecracker needs KVM: KVM runs no guest")
	for name, c := range map[string]struct {
		unsound error
		args    string
		named   bool
		vmm     string // empty: refused
		said    string
		silent  string // what is not said
	}{
		"sound":                    {nil, "", false, "firecracker", "", "Firecracker is not used"},
		"too old":                  {old, "", false, "qemu", "Firecracker is not used, QEMU runs the sandbox: /opt/firecracker is version 1.9.0", ""},
		"too old, asked for":       {old, "", true, "", "version 1.9.0, older than 1.10", ""},
		"useless KVM":              {useless, "", false, "qemu", "emulated and therefore slow: KVM runs no guest", "Firecracker is not used"},
		"odd processors":           {nil, "--cpus 3", false, "qemu", "3 processors: Firecracker gives 1 or an even number up to 32", ""},
		"odd processors asked for": {nil, "--cpus 3", true, "", "3 processors", ""},
		"many processors":          {nil, "--cpus 34", false, "qemu", "34 processors", ""},
		"two processors":           {nil, "--cpus 2", true, "firecracker", "", "processors"},
	} {
		t.Run(name, func(t *testing.T) {
			w := withFirecracker(t, c.named)
			w.unsound = c.unsound
			if c.unsound != nil {
				w.app.Sound = func(_ context.Context, m machine) error {
					if m.vmm == config.Firecracker {
						return c.unsound
					}
					return nil
				}
			}
			status := w.app.Main(append([]string{"claude", "start", "--no-attach"}, strings.Fields(c.args)...))
			var vmms []string
			for _, s := range w.created {
				vmms = append(vmms, s.VMM)
			}
			if c.vmm == "" && (status == 0 || len(vmms) > 0 || slices.ContainsFunc(w.log, func(l string) bool { return strings.HasPrefix(l, "pull") })) ||
				c.vmm != "" && !slices.Equal(vmms, []string{c.vmm}) {
				t.Errorf("status %d, made on %q, want %q; %q", status, vmms, c.vmm, w.log)
			}
			said := w.errs.String()
			if !strings.Contains(said, c.said) || c.silent != "" && strings.Contains(said, c.silent) {
				t.Errorf("said %s", said)
			}
		})
	}
}

// TestNoQEMUInstead: where neither can, both reasons are told.
func TestNoQEMUInstead(t *testing.T) {
	w := withFirecracker(t, false)
	w.unsound = errors.New("no cage can be made")
	w.able = fault.New(fault.Host, "Install it.", "find program qemu-system-x86_64")
	if status := w.app.Main([]string{"claude", "start", "--no-attach"}); status != 125 || len(w.created) > 0 {
		t.Errorf("status %d, made %d", status, len(w.created))
	}
	for _, part := range []string{"find program qemu-system-x86_64", "no cage can be made", "Install it."} {
		if !strings.Contains(w.errs.String(), part) {
			t.Errorf("%q is not told: %s", part, &w.errs)
		}
	}
}

// TestProbeGuestThatFails: the image is here already when Firecracker brings no probe
// guest up; QEMU takes its own row of it.
func TestProbeGuestThatFails(t *testing.T) {
	for _, named := range []bool{false, true} {
		w := withFirecracker(t, named)
		works := w.app.Accel
		w.app.Accel = func(ctx context.Context, m machine, row manifest.Row, image record.Image) (vmm.Accel, string, error) {
			if row.VMM != m.vmm {
				t.Errorf("the row for %s on %s", row.VMM, m.vmm)
			}
			if m.vmm == config.Firecracker {
				return "", "", distrust{fault.New(fault.Host, "", "a probe guest did not come up under KVM: silent for 5s")}
			}
			return works(ctx, m, row, image)
		}
		status := w.app.Main([]string{"claude", "start", "--no-attach"})
		if made := len(w.created) == 1 && w.created[0].VMM == config.QEMU; made == named || (status == 0) == named {
			t.Errorf("asked for: %v: status %d, made %+v", named, status, w.created)
		}
		if !strings.Contains(w.errs.String(), "a probe guest did not come up under KVM: silent for 5s") {
			t.Errorf("said %s", &w.errs)
		}
	}
}

// TestNoRowForFirecracker: a catalogue that has images for QEMU only is used with QEMU;
// where Firecracker was asked for, its image is built here.
func TestNoRowForFirecracker(t *testing.T) {
	w := withFirecracker(t, false)
	w.rows = w.rows[:1]
	if status := w.app.Main([]string{"claude", "start", "--no-attach"}); status != 0 || len(w.created) != 1 || w.created[0].VMM != config.QEMU {
		t.Errorf("status %d, made %+v", status, w.created)
	}
	if !strings.Contains(w.errs.String(), "release 2026.1 has no image of claude-code for it") {
		t.Errorf("said %s", &w.errs)
	}
	if status := w.app.Main([]string{"image", "pull", "claude-code"}); status != 0 {
		t.Errorf("pull: status %d, %s", status, &w.errs)
	}
	w = withFirecracker(t, true)
	w.rows = w.rows[:1]
	if status := w.app.Main([]string{"claude", "start", "--no-attach"}); status != 0 || len(w.created) != 1 || w.created[0].VMM != config.Firecracker {
		t.Errorf("asked for: status %d, made %+v", status, w.created)
	}
	if !slices.ContainsFunc(w.log, func(l string) bool { return strings.HasPrefix(l, "build claude-code") }) {
		t.Errorf("asked for: %q", w.log)
	}
}

// TestPlanOfFirecracker: a dry run tells what would run the sandbox, and why.
func TestPlanOfFirecracker(t *testing.T) {
	w := withFirecracker(t, false)
	w.app.Main([]string{"claude", "start", "--dry-run"})
	if text := w.out.String(); !strings.Contains(text, "firecracker (KVM, if a probe guest comes up)") || strings.Contains(text, "instead") {
		t.Errorf("planned:\n%s", text)
	}
	w = withFirecracker(t, false)
	w.app.Sound = func(_ context.Context, m machine) error {
		if m.vmm == config.Firecracker {
			return errors.New("backend firecracker needs KVM: it runs no guest")
		}
		return nil
	}
	w.app.Main([]string{"claude", "start", "--dry-run"})
	if text := w.out.String(); !strings.Contains(text, "qemu (emulated") || !strings.Contains(text, "needs KVM: it runs no guest") {
		t.Errorf("planned:\n%s", text)
	}
}

// TestStartAgain: a sandbox that was made for Firecracker is run by it where that is
// possible, else by QEMU, and comes back to it.
func TestStartAgain(t *testing.T) {
	made := &record.Program{Path: "/opt/firecracker", Version: "1.12.1", SHA256: "aa"}
	asked := &record.Program{Path: "/opt/firecracker", Version: "1.12.1", SHA256: "aa", Asked: true}
	other := &record.Program{Path: "/opt/firecracker", Version: "1.11.0", SHA256: "bb"}
	for name, c := range map[string]struct {
		on       string // what ran it last
		program  *record.Program
		unsound  error
		failures int
		cpus     int
		vmm      string
		starts   int
		status   int
		said     string
	}{
		"as before":            {"firecracker", made, nil, 0, 2, "firecracker", 1, 0, ""},
		"another program":      {"firecracker", other, nil, 0, 2, "firecracker", 1, 0, "another one than before: version 1.12.1"},
		"too old now":          {"firecracker", made, errors.New("it is version 1.9.0"), 0, 2, "qemu", 1, 0, "it is version 1.9.0"},
		"too old, asked for":   {"firecracker", asked, errors.New("it is version 1.9.0"), 0, 2, "firecracker", 0, 125, "it is version 1.9.0"},
		"fails once":           {"firecracker", made, nil, 1, 2, "firecracker", 2, 0, "tried once more"},
		"fails twice":          {"firecracker", made, nil, 2, 2, "qemu", 3, 0, "QEMU runs it instead"},
		"fails always":         {"firecracker", made, nil, 9, 2, "qemu", 3, 125, "it died"},
		"fails, asked for":     {"firecracker", asked, nil, 9, 2, "firecracker", 2, 125, "it died"},
		"comes back":           {"qemu", made, nil, 0, 2, "firecracker", 1, 0, ""},
		"three processors":     {"firecracker", made, nil, 0, 3, "qemu", 1, 0, "3 processors"},
		"made for QEMU":        {"qemu", nil, nil, 0, 3, "qemu", 1, 0, ""},
		"made for QEMU, fails": {"qemu", nil, nil, 9, 3, "qemu", 1, 125, "it died"},
	} {
		t.Run(name, func(t *testing.T) {
			w := withFirecracker(t, false)
			w.add("box", sandbox.Stopped)
			s := w.boxes["box"]
			s.VMM, s.VMMProgram, s.CPUs = c.on, c.program, c.cpus
			w.boxes["box"] = s
			w.unsound = c.unsound
			starts := 0
			w.started = func(context.Context) {
				w.startErr = nil
				if starts++; starts <= c.failures {
					w.startErr = fault.New(fault.Boot, "", "it died")
				}
			}
			if got := w.app.Main([]string{"start", "--no-attach", "box"}); got != c.status {
				t.Errorf("exit status %d, want %d", got, c.status)
			}
			if got := w.boxes["box"]; got.VMM != c.vmm || starts != c.starts || (got.VMMProgram == nil) != (c.program == nil) {
				t.Errorf("on %s after %d starts, want %s after %d; made for %+v; %q", got.VMM, starts, c.vmm, c.starts, got.VMMProgram, w.log)
			}
			if !strings.Contains(w.errs.String(), c.said) {
				t.Errorf("said %s, want %q", &w.errs, c.said)
			}
		})
	}
}
