package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

const fullHome = "SMOLVM_STORE_TEST_FULL"

// TestFullDisk lets a child process in namespaces of its own, where any user may
// mount, run inFullDisk on a small file system: one without space, one without
// inodes.
func TestFullDisk(t *testing.T) {
	if home := os.Getenv(fullHome); home != "" {
		inFullDisk(t, home, os.Getenv(fullHome+"_OPTIONS"))
		return
	}
	for name, options := range map[string]string{"bytes": "size=600k", "inodes": "size=4m,nr_inodes=60"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
			cmd.Env = append(os.Environ(), fullHome+"="+t.TempDir(), fullHome+"_OPTIONS="+options)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Skipf("this host lets nobody have namespaces: %v", err)
			}
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// inFullDisk fills the disk. Then a commit fails with both numbers and leaves what
// it had, and a prune makes room.
func inFullDisk(t *testing.T, home, options string) {
	if err := unix.Mount("none", home, "tmpfs", 0, options); err != nil {
		t.Skipf("mount: %v", err)
	}
	s, err := Open(home)
	must(t, err)
	old := release(t, s, "1")
	current := release(t, s, "2")
	key := partialOf(t, s, "unfinished")
	filler := fill(t, filepath.Join(home, "filler"))

	claim := seize(t, s, key)
	_, err = claim.Partial()
	must(t, err)
	if _, err = claim.Commit(t.Context(), origin("unfinished", 4), []byte("index of unfinished")); !isFull(err) {
		t.Fatalf("a full disk was not noticed: %v", err)
	}
	lacking := "bytes are free"
	if strings.Contains(options, "nr_inodes") {
		lacking = "no inode left"
	}
	if err := s.Explain(err); fault.CodeOf(err) != fault.Storage || !strings.Contains(err.Error(), lacking) {
		t.Errorf("said: %v", err)
	}
	if c, err := s.Seize(t.Context(), keyOf("new"), nil); err != nil && !strings.Contains(err.Error(), lacking) || fault.HintOf(err) == writeHint {
		t.Errorf("a new lock: %v", err) // which needs no more than an inode
	} else if err == nil {
		must(t, c.Release())
	}
	must(t, claim.Release())
	if got := state(t, s, key); got != Absent {
		t.Errorf("half an object is %s", got)
	}
	if _, err := os.Lstat(filepath.Join(s.partials, key, contentFile)); err != nil {
		t.Errorf("what was downloaded is gone: %v", err)
	}

	p := prune(t, s, PruneOptions{Current: []string{"2"}, Keep: -1, Now: time.Now()})
	if p.Objects != 1 || len(p.Images) != 1 || s.look(old.Files[1].Key).State != Absent {
		t.Errorf("a full disk cannot be cleared: %+v", p)
	}
	must(t, os.RemoveAll(filler))
	repair(t, s, "base", strings.Repeat("base", 5000)) // doubtful where its record could not be written
	repair(t, s, "unfinished", "half")
	must(t, s.Show(t.Context(), current))
}

// fill takes all inodes and all bytes of a file system.
func fill(t *testing.T, dir string) string {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	var err error
	for i := 0; err == nil && i < 100_000; i++ {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 4096), 0o600)
	}
	if !isFull(err) {
		t.Fatalf("the disk is not full: %v", err)
	}
	return dir
}
