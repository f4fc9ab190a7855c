package imagebuild

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/fault"
)

func TestShippedLocksAreSorted(t *testing.T) {
	for arch, lock := range shippedBase(t).Locks {
		if len(lock) < 100 || !slices.IsSortedFunc(lock, func(a, b Locked) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%s: %d packages, or not in order", arch, len(lock))
		}
	}
}

func TestBadLocks(t *testing.T) {
	sum := hexSum("x")
	for name, line := range map[string]string{
		"no digest": "git 1.0", "short digest": "git 1.0 abc", "an option": "--hook 1 " + sum,
		"two versions": "git 1 2 " + sum, "a pattern": "git * " + sum, "a path": "git ../1 " + sum, "upper case": "git 1 " + strings.ToUpper(sum),
	} {
		files := fstest.MapFS{}
		for _, arch := range Arches {
			files[images.BaseLock(arch)] = &fstest.MapFile{Data: []byte("# packages\ngit 1:2.0-3+b1~x " + sum + "\n" + line + "\n")}
		}
		_, err := readLocks(files)
		if fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "packages-amd64.lock: line 3") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestOnlyLockedPackages: each way in which the archive and the lock may differ.
func TestOnlyLockedPackages(t *testing.T) {
	other := Locked{Name: "other", Version: "1", SHA256: hexSum("other")}
	for name, c := range map[string]struct {
		change func(lock []Locked) []Locked
		code   fault.Code
		says   string
	}{
		"another version": {func(l []Locked) []Locked { l[0].Version = "5"; return l }, fault.Build, "does not lock linux-image-6.12.1-demo 6"},
		"other bytes":     {func(l []Locked) []Locked { l[0].SHA256 = hexSum("other"); return l }, fault.Trust, "has SHA-256 " + hexSum("linux-image-6.12.1-demo")},
		"one too few":     {func(l []Locked) []Locked { return append(l, other) }, fault.Build, "locks other, which the archive did not give"},
		"one is gone": {
			func(l []Locked) []Locked {
				return append(l, Locked{Name: "gone", Version: "2:1", SHA256: hexSum("gone")})
			},
			fault.Build, "locks versions that Debian's archive has no more, gone 2:1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, machines := newBuilder(t, t.TempDir())
			b.base.Locks["amd64"] = c.change(slices.Clone(b.base.Locks["amd64"]))
			_, err := b.Build(t.Context(), demoRequest())
			if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
			if len(machines.specs) != 0 {
				t.Error("a sandbox ran with it")
			}
			if c.code == fault.Build && !strings.Contains(fault.HintOf(err), "refresh-pins --packages") {
				t.Errorf("hint %q", fault.HintOf(err))
			}
			unlocked := demoRequest()
			unlocked.Unlocked = true
			if _, err = b.Build(t.Context(), unlocked); (err == nil) != (c.code == fault.Build) {
				t.Errorf("--unlocked: %v", err)
			}
		})
	}
}

// TestLockIsPartOfTheKey: of the base's, for its own architecture only.
func TestLockIsPartOfTheKey(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	key := func(req Request) string {
		plan, err := b.Plan(req)
		if err != nil {
			t.Fatal(err)
		}
		return plan.Base.Key
	}
	arm, unlocked := demoRequest(), demoRequest()
	arm.Arch, unlocked.outrun = "arm64", true
	before := []string{key(demoRequest()), key(arm), key(unlocked)}
	b.base.Locks["arm64"] = []Locked{{Name: "linux-image-6.12.1-demo", Version: "7", SHA256: hexSum("7")}}
	after := []string{key(demoRequest()), key(arm), key(unlocked)}
	if before[0] != after[0] || before[1] == after[1] || before[2] != after[2] || before[0] == before[2] {
		t.Errorf("keys %q, with another lock for arm64 %q", before, after)
	}
}

// TestLockPackages: what is locked can be built from.
func TestLockPackages(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	raw, err := LockPackages(t.Context(), b.run, b.base, "amd64", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lock, err := parseLock(string(raw))
	if err != nil || !slices.Equal(lock, demoLocks()["amd64"]) {
		t.Errorf("lock %v, error %v", lock, err)
	}
}
