package sandbox_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
)

// groups are the control groups of a sandbox's machines on this computer.
func groups(t *testing.T, id string) (all []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || err == nil && !d.IsDir() {
			return nil
		}
		if err == nil && filepath.Base(path) == "smolvm-"+id {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestControlGroup: a machine's monitor gets a control group where the user was given
// one; what it ends of is told; nothing of it stays, also after a crash.
func TestControlGroup(t *testing.T) {
	if look := cgroup.Here().Look(); look.Why != nil {
		t.Skipf("no control group to try it with: %v", look.Why)
	}
	b := newBench(t)
	b.create("one")
	r := b.start("one")
	if l := r.Limits; l == nil || !l.Group || l.Memory != uint64(r.MemoryMiB)<<20 || l.Processes == 0 || l.CPUs != r.CPUs || l.Why != "" {
		t.Fatalf("its limits are %+v", l)
	}
	if all := groups(t, r.ID); len(all) != 1 {
		t.Errorf("while it runs it has the groups %q", all)
	}
	b.starve("one")
	if s := b.wantState("one", sandbox.Stopped); !strings.Contains(s.LastError, "went over the 128 MiB of memory") {
		t.Errorf("last error %q", s.LastError)
	}
	if all := groups(t, r.ID); len(all) > 0 {
		t.Errorf("its end leaves %q", all)
	}

	r = b.start("one")
	if err := syscall.Kill(r.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.released("one")
	if all := groups(t, r.ID); len(all) != 1 {
		t.Errorf("a crash leaves %q: there is nothing to sweep", all)
	}
	b.create("two")
	b.start("two")
	if all := groups(t, r.ID); len(all) > 0 {
		t.Errorf("the next start lets %q stay", all)
	}
}

// starve lets a machine's monitor take more and more memory, to its end.
func (b *bench) starve(name string) {
	b.t.Helper()
	c, err := b.m.Connect(b.t.Context(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	done := c.Done()
	if _, err := c.Exec(b.t.Context(), command("starve"), supervise.Streams{}); err == nil {
		b.t.Error("it has no end")
	}
	<-done
}

// scoped makes the bench believe that a systemd of the user's runs here, whose
// systemd-run is a script.
func (b *bench) scoped(script string) (folder string) {
	b.t.Helper()
	folder = b.t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "systemd-run"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		b.t.Fatal(err)
	}
	for name, text := range map[string]string{
		"proc/self/cgroup": "0::/user.slice/user-7.slice/user@7.service/app.slice/x.scope\n", "sys/fs/cgroup/cgroup.controllers": "memory\n",
	} {
		path := filepath.Join(folder, "root", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			b.t.Fatal(err)
		}
	}
	b.m.Groups = cgroup.System{Root: filepath.Join(folder, "root"), UID: 7}
	b.m.Runner = process.New(process.Options{Environ: append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH")), Self: b.run.SelfPath()})
	return folder
}

// become is a systemd-run that notes how it was called and does the half of its work
// that is seen from here.
const become = `for word in "$@"; do echo "$word" >>"${0%/*}/words"; done
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
`

// TestScope: below the user's own systemd a supervisor is started in a scope, with all
// that it inherits.
func TestScope(t *testing.T) {
	b := newBench(t)
	folder := b.scoped(become)
	b.create("one")
	b.start("one")
	if out, status := b.exec("one", "hello", "cat"); out != "hello" || status != 0 {
		t.Errorf("cat: %q, %d", out, status)
	}
	text, err := os.ReadFile(filepath.Join(folder, "words"))
	words := strings.Split(string(text), "\n")
	for _, want := range []string{"--user", "--scope", "--collect", "--property=Delegate=yes", "supervise"} {
		if !slices.Contains(words, want) {
			t.Errorf("systemd-run was called with %q, %v; there is no %s", words, err, want)
		}
	}
}

// TestScopeRefused: without a scope a supervisor runs all the same, and says why.
func TestScopeRefused(t *testing.T) {
	for name, script := range map[string]string{
		"Failed to connect": "echo Failed to connect to bus: No medium found >&2; exit 1\n",
		"instead of":        "echo '{\"type\":\"event\"}' >&3; exec sleep 60\n",
		"systemd-run":       "", // not there
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			folder := b.scoped(script)
			if script == "" {
				b.m.Runner = process.New(process.Options{Environ: []string{"PATH=" + folder + "/none"}, Self: b.run.SelfPath()})
			}
			b.create("one")
			if r := b.start("one"); r.Limits == nil || r.Limits.Group || !strings.Contains(r.Limits.Why, name) {
				t.Errorf("its limits are %+v", r.Limits)
			}
		})
	}
}

// TestScopeHangs: a start that waits for systemd can be interrupted, and leaves nothing.
func TestScopeHangs(t *testing.T) {
	b := newBench(t)
	folder := b.scoped("touch \"${0%/*}/begun\"; exec sleep 60\n")
	b.create("one")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(folder, "begun")); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	begun := time.Now()
	if _, err := b.m.Start(ctx, "one", sandbox.StartOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted start: %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	b.nothingIn("sandboxes")
}
