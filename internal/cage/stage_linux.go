package cage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stage is the whole life of the stage: it builds the cage around itself and becomes
// the program. It returns the exit status only where that fails, or where the cage
// was only to be tried.
func Stage(errs io.Writer) int {
	runtime.LockOSThread() // capabilities belong to a thread, and the one that calls exec counts
	plan := os.NewFile(planFD, "plan")
	p, err := readPlan(plan)
	_ = plan.Close()
	if err == nil {
		err = p.build()
	}
	if err != nil {
		fmt.Fprintf(errs, "%s%v\n", complaint, err)
		return failStatus
	}
	if p.Program == "" {
		return 0
	}
	err = unix.Exec(p.Program, append([]string{p.Program}, p.Args...), nil)
	fmt.Fprintf(errs, "%srun %s: %v\n", complaint, p.Program, err)
	return runStatus
}

// build makes the cage; what comes first needs what comes later takes away.
func (p Plan) build() error {
	// The pipe of the plan is closed, and what else is open there the runtime opened,
	// closed at exec; what this process was not told of must not reach the program either.
	if err := unix.CloseRange(uint(FirstFile+p.Files), 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("close files: %w", err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"follow the parent's death", func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) }},
		{"keep files private", func() error { unix.Umask(0o077); return nil }},
		{"set the badness", p.setBadness},
		{tapStep, p.makeTap},
		{"forbid further namespaces", forbidNamespaces},
		{"build the root", p.buildRoot},
		{"enter the root", enter},
		{"name the host", func() error { return unix.Sethostname([]byte("cage")) }},
		{"drop capabilities", dropCapabilities},
		{"limit resources", p.Limits.set}, // last: little memory may be left to this stage
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// setBadness lets the program be killed before others when memory runs out. Making
// that more likely is everybody's right.
func (p Plan) setBadness() error {
	if p.OOMScore == 0 {
		return nil
	}
	return os.WriteFile("/proc/self/oom_score_adj", fmt.Appendf(nil, "%d", p.OOMScore), 0)
}

// forbidNamespaces lets nobody in here make user namespaces, in which a program has
// rights that it can try on the kernel. Where /proc/sys cannot be written, as in some
// containers, that is left to the program's own filter of system calls.
func forbidNamespaces() error {
	_ = os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	return nil
}

// buildRoot mounts a root in memory over Root and shows in it what was asked for.
func (p Plan) buildRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the mounts of others alone: %w", err)
	}
	if err := unix.Mount("cage", p.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=1m,nr_inodes=2048"); err != nil {
		return fmt.Errorf("mount %s: %w", p.Root, err)
	}
	for _, b := range p.Binds {
		if err := b.show(p.Root); err != nil {
			return fmt.Errorf("show %s: %w", b.From, err)
		}
	}
	return unix.Chdir(p.Root)
}

// show mounts one file or folder.
func (b Bind) show(root string) error {
	at := filepath.Join(root, b.To)
	info, err := os.Stat(b.From)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else {
		var f *os.File
		if f, err = os.OpenFile(at, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(b.From, at, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	flags, err := b.flags(at)
	if err != nil {
		return err
	}
	return unix.Mount("", at, "", flags|unix.MS_BIND|unix.MS_REMOUNT, "")
}

// kept are the flags of the outside's mount, which the inside may not take away.
var kept = map[int64]uintptr{
	unix.ST_RDONLY: unix.MS_RDONLY, unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
	unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
}

// flags are those of the mount at a path, and what is asked for besides.
func (b Bind) flags(at string) (uintptr, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return 0, err
	}
	flags := uintptr(unix.MS_NOSUID)
	for has, keep := range kept {
		if int64(st.Flags)&has != 0 { //nolint:unconvert // the types differ between architectures
			flags |= keep
		}
	}
	if !b.Writable && !b.Device {
		flags |= unix.MS_RDONLY
	}
	if !b.Device {
		flags |= unix.MS_NODEV
	}
	if !b.Program {
		flags |= unix.MS_NOEXEC
	}
	return flags, nil
}

// enter makes the current folder the root and lets go of the old one.
func enter() error {
	if err := unix.PivotRoot(".", "."); err != nil { // the old root is now mounted over the new one
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

func (l Limits) set() error {
	for resource, limit := range map[int]uint64{
		unix.RLIMIT_AS: l.Memory, unix.RLIMIT_NOFILE: l.Files, unix.RLIMIT_NPROC: l.Processes,
	} {
		if limit == 0 || resource == unix.RLIMIT_NPROC && !countsByNamespace() {
			continue
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(resource, &now); err != nil {
			return err
		}
		limit = min(limit, now.Max)
		if err := setLimit(resource, limit); err != nil {
			return err
		}
	}
	return setLimit(unix.RLIMIT_CORE, 0) // memory of a guest belongs in no file
}

// countsByNamespace tells whether the kernel counts processes in a user namespace by
// themselves, as Linux does since 5.14. Before, those that the user runs outside would
// count, and the program could not even start a thread.
func countsByNamespace() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 5 || major == 5 && minor >= 14)
}

// setLimit sets both limits. The Go runtime would put the number of open files back
// at exec to what it found, were it not told by its own function.
func setLimit(resource int, limit uint64) error {
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit, Max: limit})
}

// lastCapability is far above any that exist; the kernel says where they end.
const lastCapability = 63

// dropCapabilities gives up all rights in these namespaces, and every way back.
func dropCapabilities() error {
	for c := uintptr(0); c <= lastCapability; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break // there are no more
		} else if err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}
