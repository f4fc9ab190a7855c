package host

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Survey is what else this computer offers to virtual machines. It is read, not
// tried. An empty field is unknown unless it says otherwise.
type Survey struct {
	Extensions   string // vmx or svm, as the processor shows them; empty: none, or not amd64
	Hypervisor   bool   // this computer is itself a virtual machine
	Product      string // whose, as the firmware names it
	Container    string // docker, podman, lxc, ...; empty: none
	AvailableMiB int64  // memory that can be had without swapping; 0: unknown
	OpenFiles    uint64 // files that a process may have open (soft limit)
	Watches      int    // inotify watches of a user
	Synced       bool   // the kernel believes that its clock is right
}

// Look makes the survey of this computer.
func (i Info) Look() Survey {
	s := Survey{OpenFiles: openFiles()}
	if i.OS != "linux" {
		return s
	}
	s.read(os.DirFS("/"))
	s.Synced = clockSynced()
	return s
}

// read fills in what Linux says in its file systems.
func (s *Survey) read(root fs.FS) {
	if text, err := fs.ReadFile(root, "proc/cpuinfo"); err == nil {
		s.processor(firstProcessor(text)["flags"])
	}
	s.Product = strings.TrimSpace(line(root, "sys/class/dmi/id/sys_vendor") + " " + line(root, "sys/class/dmi/id/product_name"))
	s.Container = container(root)
	s.AvailableMiB = available(root)
	s.Watches, _ = strconv.Atoi(line(root, "proc/sys/fs/inotify/max_user_watches"))
}

func (s *Survey) processor(flags string) {
	for flag := range strings.FieldsSeq(flags) {
		switch flag {
		case "vmx", "svm":
			s.Extensions = flag
		case "hypervisor":
			s.Hypervisor = true
		}
	}
}

// line is the first line of a small file; empty where there is none.
func line(root fs.FS, name string) string {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first)
}

// container names the container that this process runs in. systemd and podman
// write its name; Docker leaves an empty file.
func container(root fs.FS) string {
	if name := line(root, "run/systemd/container"); name != "" {
		return name
	}
	for file, name := range map[string]string{"run/.containerenv": "podman", ".dockerenv": "docker"} {
		if _, err := fs.Stat(root, file); err == nil {
			return name
		}
	}
	return ""
}

// available reads MemAvailable, which the kernel estimates.
func available(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib >> 10
		}
	}
	return 0
}
