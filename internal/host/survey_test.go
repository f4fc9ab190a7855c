package host

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

func TestSurveyReads(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	root := fstest.MapFS{
		"proc/cpuinfo":                         file("processor\t: 0\nflags\t\t: fpu svm hypervisor\n\nprocessor\t: 1\n"),
		"sys/class/dmi/id/sys_vendor":          file("Acme\n"),
		"sys/class/dmi/id/product_name":        file("Cloud 7\n"),
		"run/systemd/container":                file("lxc\n"),
		"proc/meminfo":                         file("MemTotal:       100 kB\nMemAvailable:   4194304 kB\n"),
		"proc/sys/fs/inotify/max_user_watches": file("8192\n"),
	}
	var s Survey
	s.read(root)
	switch {
	case s.Extensions != "svm", !s.Hypervisor, s.Product != "Acme Cloud 7", s.Container != "lxc",
		s.AvailableMiB != 4096, s.Watches != 8192:
		t.Errorf("read %+v", s)
	}
}

// TestSurveyOfNothing holds that unreadable files leave fields unknown.
func TestSurveyOfNothing(t *testing.T) {
	var s Survey
	s.read(fstest.MapFS{"proc/meminfo": {Data: []byte("MemAvailable: lots")}, "proc/cpuinfo": {Data: []byte("\n\n")}})
	if s.Extensions+s.Product+s.Container != "" || s.AvailableMiB != 0 {
		t.Errorf("read %+v of nothing", s)
	}
}

// TestTryLeavesNothing tries the file system that tests run on.
func TestTryLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := Try(dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.FreeBytes <= 0 || !f.HardLinks || !f.Locks {
		t.Errorf("tried %+v", f)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestTryRefuses(t *testing.T) {
	if _, err := Try(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that is not there was tried")
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	if _, err := Try(closed); err == nil && os.Geteuid() != 0 {
		t.Error("a folder that cannot be written was tried")
	}
}
