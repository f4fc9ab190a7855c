package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/vmm"
)

// TestCaged looks from outside at a QEMU in its cage: what it sees, and what it may.
func TestCaged(t *testing.T) {
	d := needQEMU(t)
	if err := cage.Try(t.Context(), testRunner()); err != nil {
		t.Skip(err)
	}
	s := dull(loop(t))
	s.RunDir, s.Network = t.TempDir(), true
	scratch := filepath.Join(t.TempDir(), "a disk, with a comma")
	if err := os.WriteFile(scratch, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Drives = []vmm.Drive{{ID: "scratch", Path: scratch}}
	running, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = running.Kill() }()
	if caged, why := running.(vmm.Confined).Confinement(); !caged {
		t.Fatalf("it has no cage: %v", why)
	}
	if left, err := os.ReadDir(s.RunDir); err != nil || len(left) > 0 {
		t.Errorf("left in the run folder: %v, %v", left, err)
	}
	proc := fmt.Sprintf("/proc/%d/", running.Pid())
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("its status lacks %q:\n%s", want, status)
		}
	}
	for _, kind := range []string{"user", "mnt", "pid", "net", "ipc", "uts"} {
		ours, _ := os.Readlink("/proc/self/ns/" + kind)
		if its, err := os.Readlink(proc + "ns/" + kind); its == ours || err != nil {
			t.Errorf("namespace %s is ours (%v)", kind, err)
		}
	}
	sees(t, proc)
	inherits(t, proc)
}

// sees checks the root: nothing of ours, no other program than QEMU.
func sees(t *testing.T, proc string) {
	t.Helper()
	mounts, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		at, options := fields[4], fields[5]
		writable := strings.HasPrefix(options, "rw")
		if writable && at != "/drives/scratch" && at != "/dev/null" {
			t.Errorf("writable: %s", line)
		}
		if at == "/kernel" && !strings.Contains(options, "noexec") {
			t.Errorf("the kernel may be run: %s", line)
		}
	}
	for _, path := range []string{"proc", "sys", "home", "root", "tmp", "etc/passwd", "usr/bin/env", "dev/kvm"} {
		if _, err := os.Lstat(proc + "root/" + path); err == nil {
			t.Errorf("it sees /%s", path)
		}
	}
}

// inherits checks that no file of this process's is open in QEMU but those it was given.
func inherits(t *testing.T, proc string) {
	t.Helper()
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		target, _ := os.Readlink(proc + "fd/" + file.Name())
		if !slices.ContainsFunc([]string{"socket:", "pipe:", "anon_inode:", "/dev/null", "/drives/scratch", "/memfd:"}, func(known string) bool {
			return strings.HasPrefix(target, known)
		}) {
			t.Errorf("descriptor %s is %s", file.Name(), target)
		}
	}
}

// uncagedVariable makes the test binary start a machine where no cage can be made.
const uncagedVariable = "QEMU_TEST_UNCAGED"

// TestRunsWhereCagesAreForbidden starts a machine inside namespaces that allow no
// others, which is how a system looks that forbids them.
func TestRunsWhereCagesAreForbidden(t *testing.T) {
	if os.Getenv(uncagedVariable) == "" {
		again := exec.Command(os.Args[0], "-test.run", "^TestRunsWhereCagesAreForbidden$")
		again.Env = append(os.Environ(), uncagedVariable+"=1")
		again.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		var out bytes.Buffer
		again.Stdout, again.Stderr = &out, &out
		if err := again.Start(); err != nil {
			t.Skipf("no namespaces on this system: %v", err)
		}
		if err := again.Wait(); err != nil {
			t.Errorf("%v\n%s", err, &out)
		}
		return
	}
	const setting = "/proc/sys/user/max_user_namespaces"
	if err := os.WriteFile(setting, []byte("0"), 0); err != nil {
		t.Skip(err)
	}
	running, err := needQEMU(t).Start(t.Context(), dull(loop(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = running.Kill() }()
	caged, why := running.(vmm.Confined).Confinement()
	if caged || why == nil || !strings.Contains(why.Error(), "user.max_user_namespaces is 0") {
		t.Errorf("caged %v, because %v", caged, why)
	}
}
