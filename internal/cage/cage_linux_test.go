package cage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/process"
)

// prisoner is the word by which the test's own binary is the program that tries to
// get out.
const prisoner = "prisoner"

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == Word:
		os.Exit(Stage(os.Stderr))
	case len(os.Args) > 1 && os.Args[1] == prisoner:
		os.Exit(escape(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == tapUser:
		os.Exit(useTap())
	case len(os.Args) > 1 && os.Args[1] == jailer:
		os.Exit(keep(os.Args[2]))
	case len(os.Args) > 1 && os.Args[1] == giver:
		os.Exit(give())
	}
	os.Exit(m.Run())
}

// attempt is one thing that a program in a cage must not be able to do.
type attempt struct {
	name string
	try  func(args []string) error // nil: it worked
}

// attempts take the home folder, a port of loopback, and a process outside.
var attempts = []attempt{
	{"read the home folder", func(a []string) error { _, err := os.ReadDir(a[0]); return err }},
	{"read /etc/passwd", func([]string) error { _, err := os.ReadFile("/etc/passwd"); return err }},
	{"read /proc", func([]string) error { _, err := os.ReadDir("/proc/1"); return err }},
	{"write to the root", func([]string) error { return os.WriteFile("/new", nil, 0o600) }},
	{"write to what is shown for reading", func([]string) error { return os.WriteFile("/shown/file", []byte("x"), 0o600) }},
	{"run what is shown for reading", func([]string) error { return unix.Exec("/shown/program", []string{"x"}, nil) }},
	{"connect to loopback", func(a []string) error { return connect(a[1]) }},
	{"signal a process outside", func(a []string) error { return signal(a[2]) }},
	{"see more than its own processes", func([]string) error { return others() }},
	{"mount", func([]string) error { return unix.Mount("x", "/run", "tmpfs", 0, "") }},
	{"make a device", func([]string) error { return unix.Mknod("/run/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }},
	{"open a device", func([]string) error { _, err := os.Open("/dev/vda"); return err }},
	{"make a mount namespace", func([]string) error { return nested(syscall.CLONE_NEWNS) }},
	{"make a user namespace with rights of its own", func([]string) error { return nested(syscall.CLONE_NEWUSER) }},
	{"change the root", func([]string) error { return unix.Chroot("/run") }},
	{"set the clock", func([]string) error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) }},
	{"make a network card", func([]string) error { return card() }},
	{"trace", func(a []string) error { pid, _ := strconv.Atoi(a[2]); return unix.PtraceAttach(pid) }},
	{"get capabilities", func([]string) error { return capabilities() }},
	{"open many files", func([]string) error { return manyFiles() }},
	{"fork-bomb", func([]string) error { return bomb() }},
	{"fill memory", func([]string) error { return fill() }},
}

// escape tries everything and says what worked.
func escape(args []string) int {
	for _, a := range attempts {
		if err := a.try(args); err != nil {
			fmt.Printf("refused %s: %v\n", a.name, err)
		} else {
			fmt.Printf("ESCAPED %s\n", a.name)
		}
	}
	if err := os.WriteFile("/run/left", []byte("by the prisoner"), 0o600); err != nil {
		fmt.Println("ESCAPED: it cannot even write where it may:", err)
	}
	return 0
}

func connect(port string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	number, _ := strconv.Atoi(port)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}})
}

func signal(pid string) error {
	number, _ := strconv.Atoi(pid)
	return unix.Kill(number, unix.SIGKILL)
}

// others signals everybody, which reaches nobody where one is alone.
func others() error {
	if unix.Getpid() != 1 {
		return nil
	}
	return unix.Kill(-1, 0)
}

func nested(flag uintptr) error {
	cmd := exec.Command("/program", "nothing")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flag}
	return cmd.Start()
}

func card() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	request, _ := unix.NewIfreq("tap0")
	request.SetUint16(unix.IFF_TAP)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

func capabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		return err
	}
	for _, c := range all {
		if c.Effective|c.Permitted|c.Inheritable != 0 {
			return nil
		}
	}
	all[0].Permitted, all[0].Effective = 1<<unix.CAP_SYS_ADMIN, 1<<unix.CAP_SYS_ADMIN
	return unix.Capset(&header, &all[0])
}

func manyFiles() error {
	for range 10_000 {
		fd, err := unix.Open("/shown/file", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	return nil
}

// bomb starts programs until one is refused; they end with the first process.
func bomb() error {
	var pids []int
	defer func() {
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}()
	for range 500 {
		pid, err := syscall.ForkExec("/program", []string{"/program", "sleep"}, &syscall.ProcAttr{})
		if err != nil {
			return err
		}
		pids = append(pids, pid)
	}
	return nil
}

func fill() error {
	for range 64 {
		if _, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE); err != nil {
			return err
		}
	}
	return nil
}

// needCage skips where the system forbids cages, and says so.
func needCage(t *testing.T, runner *process.Runner) {
	t.Helper()
	if err := Try(t.Context(), runner); err != nil {
		t.Skipf("no cages on this system: %v", err)
	}
}

// unprivileged runs the calling test again as nobody where it runs as root, and
// tells the caller to end. A cage that holds root proves nothing.
func unprivileged(t *testing.T) (again bool) {
	t.Helper()
	if os.Getuid() != 0 {
		return false
	}
	dir, err := os.MkdirTemp("/tmp", "cage-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "test")
	image, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := errors.Join(os.WriteFile(program, image, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "TMPDIR=" + dir, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	t.Logf("as nobody:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skip("skipped as nobody")
	}
	return true
}

func TestEscape(t *testing.T) {
	if unprivileged(t) {
		return
	}
	if os.Getuid() == 0 {
		t.Fatal("this test means nothing as root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runner := process.New(process.Options{Environ: os.Environ(), Self: self})
	needCage(t, runner)
	port := listen(t)
	victim := exec.Command("sleep", "60")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = victim.Process.Kill(); _ = victim.Wait() }()
	home, _ := os.UserHomeDir()
	shown, run, root := filepath.Join(t.TempDir(), "shown"), t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(shown, 0o700), os.WriteFile(filepath.Join(shown, "file"), nil, 0o600),
		os.WriteFile(filepath.Join(shown, "program"), []byte("#!/program\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	cmd, err := Command(t.Context(), runner, Plan{
		Root: root, Program: "/program", Args: []string{prisoner, home, port, strconv.Itoa(victim.Process.Pid)},
		Binds: []Bind{
			{From: self, To: "/program", Program: true},
			{From: shown, To: "/shown"},
			{From: run, To: "/run", Writable: true},
			{From: "/dev/null", To: "/dev/null", Device: true},
		},
		Limits: Limits{Memory: 3 << 30, Files: 100, Processes: 50}, OOMScore: 500,
	})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	child, err := process.StartBound(cmd)
	_ = cmd.ExtraFiles[0].Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Fatalf("%v\n%s%s", err, &out, &errs)
	}
	t.Logf("%s", &out)
	if got := strings.Count(out.String(), "refused "); got != len(attempts) || strings.Contains(out.String(), "ESCAPED") {
		t.Errorf("%d of %d attempts were refused:\n%s", got, len(attempts), &out)
	}
	if text, err := os.ReadFile(filepath.Join(run, "left")); string(text) != "by the prisoner" {
		t.Errorf("what it wrote where it may: %q, %v", text, err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left in the root's folder: %v, %v", left, err)
	}
	if err := victim.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process outside is gone: %v", err)
	}
}

// listen opens a port of loopback.
func listen(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(at.(*unix.SockaddrInet4).Port)
}

// jailer is the word by which the test's own binary starts a cage, says which process
// is in it, and waits.
const jailer = "jailer"

const badness = 321

func keep(root string) int {
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	cmd, err := Command(context.Background(), process.New(process.Options{Environ: os.Environ(), Self: self}), Plan{
		Root: root, Program: "/program", Args: []string{"-test.run", "^TestWait$"}, OOMScore: badness,
		Binds: []Bind{{From: self, To: "/program", Program: true}},
	})
	if err != nil {
		return 1
	}
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 1
	}
	child, err := process.StartBound(cmd)
	if err != nil {
		return 1
	}
	_, _ = io.ReadFull(out, make([]byte, 7)) // "waiting": the program runs
	fmt.Println(child.Pid())
	_ = child.Wait()
	return 0
}

// TestDiesWithItsParent kills, as nothing could prevent, the process that started a
// cage, and sees what was in the cage end.
func TestDiesWithItsParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	needCage(t, process.New(process.Options{Environ: os.Environ(), Self: self}))
	in, hold, err := os.Pipe() // held open: the program in the cage never ends by itself
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), hold.Close() }()
	parent := exec.Command(self, jailer, t.TempDir())
	parent.Stdin, parent.Stderr = in, os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the parent started no cage: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	prisoner, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(prisoner) }()
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if strings.TrimSpace(string(score)) != strconv.Itoa(badness) {
		t.Errorf("its badness is %q, %v", score, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	ended := []unix.PollFd{{Fd: int32(prisoner), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, 10_000); n != 1 {
		_ = unix.Kill(pid, unix.SIGKILL)
		t.Fatalf("what is in the cage outlives the process that made it (%v)", err)
	}
}

// TestFiles gives a program a file, and sees that it gets that one and no other.
func TestFiles(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runner := process.New(process.Options{Environ: os.Environ(), Self: self})
	needCage(t, runner)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd, err := Command(t.Context(), runner, Plan{
		Root: t.TempDir(), Program: "/program", Args: []string{giver},
		Binds: []Bind{{From: self, To: "/program", Program: true}},
	}, write)
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, write) // one too many
	err = process.Run(cmd)
	_, _ = cmd.ExtraFiles[0].Close(), write.Close()
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(read); string(text) != "given; not given" {
		t.Errorf("it wrote %q, %v", text, err)
	}
}

// giver is the word by which the test's own binary writes into the files it has.
const giver = "giver"

func give() int {
	if _, err := unix.Write(FirstFile, []byte("given; ")); err != nil {
		return 1
	}
	if _, err := unix.FcntlInt(FirstFile+1, unix.F_GETFD, 0); errors.Is(err, unix.EBADF) {
		_, _ = unix.Write(FirstFile, []byte("not given"))
	}
	return 0
}

// TestWait is a program for other tests: it waits for the end of its input.
func TestWait(t *testing.T) {
	if os.Getpid() != 1 {
		t.Skip("a program for other tests")
	}
	fmt.Println("waiting")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestPlanIsChecked(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `{"root":"x"}`, `{"root":"/x","binds":[{"from":"/a","to":"/../b"}]}`,
		`{"root":"/x","binds":[{"from":"a","to":"/b"}]}`, `{"root":"/x","binds":[{"from":"/a","to":"/"}]}`,
	} {
		if _, err := readPlan(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
	if _, err := readPlan(strings.NewReader(`{"root":"/x","binds":[{"from":"/a","to":"/b"}]}`)); err != nil {
		t.Error(err)
	}
}
