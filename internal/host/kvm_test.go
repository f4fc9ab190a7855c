package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// bench is a host whose KVM is a plain file that runs any instruction.
type bench struct {
	info    Info
	options KVMOptions
	probes  int   // guests started
	answer  error // of the guest
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{info: Info{OS: "linux", Arch: "arm64", BootID: "boot-1", Microcode: "0x1"}}
	b.options = KVMOptions{
		Cache: filepath.Join(dir, "kvm.json"), VMM: filepath.Join(dir, "qemu"), Kernel: "k1",
		Guest: func(context.Context) error { b.probes++; return b.answer },
	}
	for name, text := range map[string]string{"qemu": "version 1", "kvm": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) ask(t *testing.T) Verdict {
	t.Helper()
	v, err := b.info.decide(t.Context(), kvm{
		path: filepath.Join(filepath.Dir(b.options.VMM), "kvm"), try: func(string) error { return nil },
	}, b.options)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerdictIsKept(t *testing.T) {
	b := newBench(t)
	b.answer = errors.New("emulation failure")
	first, again := b.ask(t), b.ask(t)
	if first.Usable || first.Cached || !strings.Contains(first.Reason, "emulation failure") {
		t.Errorf("first verdict %+v", first)
	}
	if !again.Cached || again.Reason != first.Reason || b.probes != 1 {
		t.Errorf("second verdict %+v after %d probes", again, b.probes)
	}
	files, err := os.ReadDir(filepath.Dir(b.options.Cache))
	if err != nil || len(files) != 3 {
		t.Errorf("files beside the cache: %v %v", files, err)
	}
}

// TestVerdictIsDoubted changes one thing at a time a verdict depends on.
func TestVerdictIsDoubted(t *testing.T) {
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*testing.T, *bench){
		"another boot":      func(_ *testing.T, b *bench) { b.info.BootID = "boot-2" },
		"other microcode":   func(_ *testing.T, b *bench) { b.info.Microcode = "0x2" },
		"another kernel":    func(_ *testing.T, b *bench) { b.options.Kernel = "k2" },
		"another VMM":       func(t *testing.T, b *bench) { write(t, b.options.VMM, "version 2, longer") },
		"cache lost":        func(_ *testing.T, b *bench) { _ = os.Remove(b.options.Cache) },
		"cache damaged":     func(t *testing.T, b *bench) { write(t, b.options.Cache, `{"key":{"boot`) },
		"cache of zeros":    func(t *testing.T, b *bench) { write(t, b.options.Cache, strings.Repeat("\x00", 4096)) },
		"cache far too big": func(t *testing.T, b *bench) { write(t, b.options.Cache, strings.Repeat(" ", 2*maxCache)) },
	} {
		b := newBench(t)
		b.ask(t)
		change(t, b)
		if v := b.ask(t); v.Cached || !v.Usable || b.probes != 2 {
			t.Errorf("%s: %+v after %d probes", name, v, b.probes)
		}
		if v := b.ask(t); !v.Cached {
			t.Errorf("%s: the new verdict is not kept", name)
		}
	}
}

// TestSameVMMElsewhen shows that a VMM that was only touched is hashed anew and
// then known.
func TestSameVMMElsewhen(t *testing.T) {
	b := newBench(t)
	b.ask(t)
	if err := os.Chtimes(b.options.VMM, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if v := b.ask(t); !v.Cached {
		t.Errorf("%+v, %d probes of the same bytes", v, b.probes)
	}
}

func TestUnknownBootIsNeverCached(t *testing.T) {
	b := newBench(t)
	b.info.BootID = ""
	b.ask(t)
	if v := b.ask(t); v.Cached || b.probes != 2 {
		t.Errorf("%+v after %d probes", v, b.probes)
	}
}

func TestReasons(t *testing.T) {
	for err, want := range map[error]string{
		fs.ErrNotExist:          "there is no /dev/kvm",
		fs.ErrPermission:        "no permission",
		errors.New("it's busy"): "it's busy",
	} {
		if got := whyClosed(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q", err, got)
		}
	}
	if v, err := (Info{OS: "darwin"}).KVM(t.Context(), KVMOptions{}); v.Usable || v.Reason == "" || err != nil {
		t.Errorf("macOS: %+v %v", v, err)
	}
	refuses := func(string) error { return errors.New("suberror 1") }
	guest := func(context.Context) error { t.Error("a guest was started on a KVM that runs nothing"); return nil }
	if v := probe(t.Context(), kvm{path: "/dev/kvm", try: refuses}, guest); v.Usable || !strings.Contains(v.Reason, "suberror 1") {
		t.Errorf("refused instruction: %+v", v)
	}
	b := newBench(t)
	b.options.VMM = "/nowhere"
	if _, err := b.info.decide(t.Context(), kvm{path: os.DevNull}, b.options); fault.CodeOf(err) != fault.Host {
		t.Errorf("missing VMM: %v", err)
	}
}

// TestGuestIsBounded probes with a guest that stays silent, and one whose user
// loses patience first.
func TestGuestIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		works := kvm{path: "/dev/kvm", try: func(string) error { return nil }}
		silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		begun := time.Now()
		v := probe(t.Context(), works, silent)
		if v.Usable || !strings.Contains(v.Reason, "silent for 5s") || time.Since(begun) != guestLimit {
			t.Errorf("%+v after %s", v, time.Since(begun))
		}
	})
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.options.Guest = func(context.Context) error { cancel(); return ctx.Err() }
	if _, err := b.info.decide(ctx, kvm{path: os.DevNull, try: func(string) error { return nil }}, b.options); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled probe: %v", err)
	}
	if _, err := os.Stat(b.options.Cache); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a cancelled probe left a verdict")
	}
}

func TestInstruction(t *testing.T) {
	if err := instruction("/nowhere/kvm"); err == nil && instructionProbed {
		t.Error("an instruction ran without a device")
	}
	if err := instruction(os.DevNull); err == nil && instructionProbed {
		t.Error("an instruction ran on a device that is not KVM")
	}
	if err := openable(device); err != nil {
		t.Skip(err)
	}
	begun := time.Now()
	err := instruction(device)
	t.Logf("%v, %s", err, time.Since(begun)) // either is right; a hang or a crash is not
}
