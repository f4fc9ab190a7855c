//go:build vm

package vm_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKilledLaunchRecovers ends launches from an empty cache at random moments
// of download, unpacking, adoption, creation and boot. The next run has to
// succeed without help and leave what an undisturbed one leaves.
func TestKilledLaunchRecovers(t *testing.T) {
	needLong(t)
	random := dice(t)
	from := serve(t, *images)
	want, whole := undisturbed(t, from, launch("half"))
	signals := []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM}
	for range *points / 2 {
		killPoint(t, from, launch("half"), signals[random.IntN(len(signals))], moment(random, whole), want)
	}
}

// TestKilledPullRecovers is its sample in the quick tier, without a machine.
func TestKilledPullRecovers(t *testing.T) {
	random := dice(t)
	from := serve(t, *images)
	pull := []string{"image", "pull", "claude"}
	want, whole := undisturbed(t, from, pull)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		killPoint(t, from, pull, signal, moment(random, whole), want)
	}
}

// undisturbed runs a command from an empty cache and gives what it leaves once
// its sandboxes are deleted, and how long it takes.
func undisturbed(t *testing.T, from *mirror, args []string) (footprint, time.Duration) {
	t.Helper()
	w := theWorld.fresh(t, from.address)
	defer w.end()
	begun := time.Now()
	w.must(t, args...)
	whole := time.Since(begun)
	w.must(t, "delete", "--all", "--yes")
	return look(t, w.home), whole
}

// killPoint ends the command at a moment, runs it again, and compares.
func killPoint(t *testing.T, from *mirror, args []string, signal syscall.Signal, at time.Duration, want footprint) {
	t.Helper()
	point := fmt.Sprintf("%s by %v after %v", args[0], signal, at.Round(time.Millisecond))
	w := theWorld.fresh(t, from.address)
	defer w.end()
	cmd := w.command(t.Context(), args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(at)
	_ = cmd.Process.Signal(signal)
	_ = cmd.Wait()
	if !cmd.ProcessState.Success() && w.state(t, "half") != "running" { // it was committed, only its starter died
		w.idle(t, point)
	}
	w.must(t, "delete", "--all", "--yes")
	if got := w.run(t, nil, args...); got.status != 0 {
		t.Fatalf("%s: the next run ended with %d: %s", point, got.status, got.stderr)
	}
	w.must(t, "delete", "--all", "--yes")
	w.idle(t, point)
	if text := look(t, w.home).difference(want); text != "" {
		t.Errorf("%s, after the next run:\n%s", point, text)
	}
}

// victims are what a case kills while a command works on a sandbox.
type victims struct{ supervisor, monitor, command bool }

func (v victims) String() string {
	var who []string
	for name, is := range map[string]bool{"supervisor": v.supervisor, "QEMU": v.monitor, "command": v.command} {
		if is {
			who = append(who, name)
		}
	}
	slices.Sort(who)
	return strings.Join(who, " and ") + " killed"
}

// TestKilledLifeRecovers kills the supervisor, QEMU, both, or the command
// itself at random moments of start, stop and delete.
func TestKilledLifeRecovers(t *testing.T) {
	needLong(t)
	random := dice(t)
	w := theWorld
	w.common(t)
	before := look(t, w.home)
	kinds := []victims{{supervisor: true}, {monitor: true}, {supervisor: true, monitor: true}, {command: true}}
	operations := []string{"stop", "start", "delete"}
	for i := range *points / 2 {
		lifePoint(t, w, operations[i%len(operations)], kinds[random.IntN(len(kinds))], random)
		if text := look(t, w.home).without("sandboxes/common/").difference(before.without("sandboxes/common/")); text != "" {
			t.Fatalf("after point %d:\n%s", i, text)
		}
	}
}

// without leaves out what lies below a folder.
func (f footprint) without(folder string) footprint {
	kept := footprint{bytes: f.bytes}
	for _, path := range f.paths {
		if !strings.HasPrefix(path, folder) {
			kept.paths = append(kept.paths, path)
		}
	}
	return kept
}

// lifePoint has a sandbox that runs, or for start one that is stopped, and kills
// while the operation works on it.
func lifePoint(t *testing.T, w *world, operation string, who victims, random *rand.Rand) {
	t.Helper()
	const name = "mortal"
	begun := time.Now()
	w.must(t, launch(name)...)
	defer w.remove(name)
	whole := time.Since(begun) // a start takes as long as a launch, stop and delete a fraction
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f; sync")
	args := []string{operation, name}
	switch operation {
	case "start":
		w.must(t, "stop", name)
		args = append(args, "--no-attach")
	case "delete":
		args = append(args, "--yes")
		whole /= 4
	case "stop":
		whole /= 4
	}
	at := moment(random, whole)
	point := fmt.Sprintf("%s, %v after %v", operation, who, at.Round(time.Millisecond))
	t.Log(point)
	cmd := w.command(t.Context(), args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(at)
	if who.command {
		_ = cmd.Process.Kill()
	}
	w.kill(name, who)
	_ = cmd.Wait()
	w.recovered(t, point, name, operation)
}

// kill kills the processes of a sandbox that there are now.
func (w *world) kill(name string, who victims) {
	for _, p := range w.processes("") {
		is := who.supervisor && strings.Contains(p.args, " supervise ") || who.monitor && strings.Contains(p.args, "qemu-system")
		if is && names(p.args, name) {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
}

// recovered uses the sandbox as if nothing had happened, and deletes it.
func (w *world) recovered(t *testing.T, point, name, operation string) {
	t.Helper()
	settled := func() bool {
		state := w.state(t, name)
		return state == "stopped" || state == "running" || state == "" && operation == "delete"
	}
	eventually(t, point+": its state settles", settled)
	if w.state(t, name) == "stopped" {
		w.must(t, "start", name, "--no-attach")
	}
	if w.state(t, name) == "running" {
		got := w.run(t, nil, "exec", name, "--", "cat", "/workspace/f")
		if got.status != 0 && w.state(t, name) == "stopped" { // an orderly stop that the killed command had begun
			w.must(t, "start", name, "--no-attach")
			got = w.run(t, nil, "exec", name, "--", "cat", "/workspace/f")
		}
		if got.stdout != "kept\n" {
			t.Fatalf("%s: the file holds %q; status %d, stderr %q", point, got.stdout, got.status, got.stderr)
		}
		w.must(t, "delete", name, "--yes")
	}
	eventually(t, point+": no process is left", func() bool {
		for _, p := range w.processes("") {
			if names(p.args, name) {
				return false
			}
		}
		return w.state(t, name) == ""
	})
}
