package doctor

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
)

var update = flag.Bool("update", false, "write testdata again")

// good is a computer on which everything is as it should be.
func good() Facts {
	now := time.Date(2026, 3, 4, 5, 6, 0, 0, time.UTC)
	return Facts{
		Host:   host.Info{OS: "linux", Arch: "amd64", CPUs: 8, MemoryMiB: 32 << 10},
		Survey: host.Survey{Extensions: "vmx", AvailableMiB: 20 << 10, OpenFiles: 4096, Watches: 65536, Synced: true},
		User:   "ana", VMM: "qemu", Backend: "qemu, as SMOLVM_BACKEND says", Firecracker: "Firecracker 1.12.1 (/usr/bin/firecracker)", FirecrackerSum: "ab12", FirecrackerKnown: "the official 1.12.1", Emulator: "QEMU 9.2.0 (/usr/bin/qemu-system-x86_64)", KVM: host.Verdict{Usable: true},
		Boot:      Boot{Accel: "kvm", Took: 312 * time.Millisecond, Kernel: "6.12.85-smolvm"},
		Home:      Home{Path: "/home/ana/.smolvm", Exists: true, Mode: 0o755, Folder: host.Folder{FreeBytes: 90 << 30, HardLinks: true, Holes: true, Locks: true}},
		Catalogue: Catalogue{Address: "https://example.org/m.json", Release: "2026.3", Signers: []string{"A1"}, Expires: now.AddDate(0, 3, 0), Image: true, Base: true, Missing: 180 << 20, Expands: 800 << 20},
		Groups:    cgroup.Outlook{Scoped: true, Controllers: cgroup.Wanted()},
		Now:       now, Built: now.AddDate(0, -1, 0),
	}
}

// hosts are the states of a computer that users meet.
var hosts = []struct {
	name   string
	change func(*Facts)
	exit   int
}{
	{"good", func(*Facts) {}, 0},
	{"cached", func(f *Facts) { f.Catalogue.Missing, f.Catalogue.Expands = 0, 0 }, 0},
	{"no-kvm", func(f *Facts) {
		f.KVM = host.Verdict{Reason: "there is no /dev/kvm"}
		f.Survey.Extensions, f.Boot.Accel, f.Boot.Took = "", "tcg", 3*time.Second
	}, 1},
	{"module-not-loaded", func(f *Facts) { f.KVM, f.Boot.Accel = host.Verdict{Reason: "there is no /dev/kvm"}, "tcg" }, 1},
	{"no-permission", func(f *Facts) { f.KVM, f.Boot.Accel = host.Verdict{Reason: "no permission for /dev/kvm"}, "tcg" }, 1},
	{"useless-kvm", func(f *Facts) {
		f.KVM, f.Boot.Accel = host.Verdict{Reason: "/dev/kvm opens but runs no guest: internal error"}, "tcg"
		f.Survey.Hypervisor, f.Survey.Product, f.Survey.Container = true, "Acme Cloud", "docker"
	}, 1},
	{"busy-kvm", func(f *Facts) { f.KVM, f.Boot.Accel = host.Verdict{Reason: "/dev/kvm is busy"}, "tcg" }, 1},
	{"untested-kvm", func(f *Facts) { f.Boot = Boot{Why: "there is no kernel for it"} }, 1},
	{"no-qemu", func(f *Facts) {
		f.Emulator, f.EmulatorError = "", fault.New(fault.Host, "Install it: sudo apt-get install qemu-system-x86", "run qemu-system-x86_64: it is not installed")
		f.Boot = Boot{Why: "there is no QEMU for it"}
	}, 2},
	{"boot-fails", func(f *Facts) { f.Boot = Boot{Accel: "tcg", Err: errors.New("silent for 1m0s")} }, 2},
	{"slow-boot", func(f *Facts) { f.Boot.Took = 20 * time.Second }, 1},
	{"little-memory", func(f *Facts) { f.Survey.AvailableMiB = 900 }, 1},
	{"disk-full", func(f *Facts) { f.Home.Folder.FreeBytes = 100 << 20 }, 2},
	{"little-space", func(f *Facts) { f.Home.Folder.FreeBytes = 2 << 30 }, 1},
	{"poor-file-system", func(f *Facts) {
		f.Home.Folder.Holes, f.Home.Folder.HardLinks, f.Home.Folder.Locks = false, false, false
	}, 1},
	{"open-folder", func(f *Facts) { f.Home.Mode = 0o777 }, 1},
	{"no-folder", func(f *Facts) { f.Home.Exists = false }, 0},
	{"unwritable", func(f *Facts) {
		f.Home = Home{Path: "/srv/x", Err: fault.New(fault.Storage, "Check the owner.", "keep images in /srv/x: permission denied")}
	}, 2},
	{"no-catalogue", func(f *Facts) { f.Catalogue, f.Boot = Catalogue{}, Boot{Why: "there is no kernel for it"} }, 2},
	{"offline", func(f *Facts) {
		f.Catalogue.Err, f.Catalogue.Image = fault.New(fault.Network, "Try again.", "fetch https://example.org/m.json: no route"), false
		f.Boot = Boot{Why: "there is no kernel for it"}
	}, 1},
	{"untrusted", func(f *Facts) { f.Catalogue.Err = fault.New(fault.Trust, "", "signature is wrong") }, 2},
	{"expired", func(f *Facts) { f.Catalogue.Expired = true }, 1},
	{"no-row", func(f *Facts) { f.Catalogue.Image = false }, 1},
	{"no-base", func(f *Facts) {
		f.Catalogue.Image, f.Catalogue.Base, f.Catalogue.Missing = false, false, 0
		f.Boot = Boot{Why: "there is no kernel for it"}
	}, 1},
	{"no-base-nor-builder", func(f *Facts) {
		f.Catalogue.Image, f.Catalogue.Base, f.Catalogue.Missing = false, false, 0
		f.Boot = Boot{Why: "there is no kernel for it"}
		f.Builders = fault.New(fault.Host, "Install it: sudo apt-get install mmdebstrap", "find program mmdebstrap: not in /usr/bin")
	}, 1},
	{"own-builds", func(f *Facts) { f.OwnBuilds = true }, 0},
	{"own-base", func(f *Facts) {
		f.OwnBuilds, f.Catalogue, f.Boot = true, Catalogue{}, Boot{Why: "there is no kernel for it"}
	}, 1},
	{"built-here", func(f *Facts) { f.OwnBuilds, f.Catalogue.Made, f.Catalogue.Missing = true, true, 0 }, 0},
	{"firecracker-wanted", func(f *Facts) {
		f.BackendError = fault.New(fault.Usage, "Use qemu.", "backend firecracker runs on Linux only")
	}, 2},
	{"firecracker", func(f *Facts) { f.VMM, f.Backend = "firecracker", "firecracker" }, 0},
	{"firecracker-without-qemu", func(f *Facts) {
		f.VMM, f.Backend = "firecracker", "firecracker"
		f.Emulator, f.EmulatorError = "", fault.New(fault.Host, "Install it: sudo apt-get install qemu-system-x86", "run qemu-system-x86_64: it is not installed")
	}, 1},
	{"closed-tun", func(f *Facts) {
		f.Backend, f.BackendFix = "qemu, as Firecracker is not used: /dev/net/tun is closed to ordinary users", "Open it, once: sudo chmod 0666 /dev/net/tun"
	}, 0},
	{"no-firecracker", func(f *Facts) {
		f.Firecracker, f.FirecrackerError = "", fault.New(fault.Host, "Take its release.", "find program firecracker: not in /usr/bin")
	}, 0},
	{"named-firecracker-too-old", func(f *Facts) {
		f.FirecrackerNamed = true
		f.Firecracker, f.FirecrackerError = "", fault.New(fault.Host, "Take its release.", "/x is version 1.9, older than 1.10")
	}, 1},
	{"unknown-firecracker", func(f *Facts) { f.FirecrackerKnown = "" }, 0},
	{"proxy", func(f *Facts) { f.Proxy, f.Certificates = "http://10.0.0.1:3128", 2 }, 0},
	{"proxy-on-private-address", func(f *Facts) { f.Proxy, f.ProxyFlag = "http://10.0.0.1:3128", "--allow 10.0.0.1:3128" }, 1},
	{"no-ping", func(f *Facts) {
		f.Ping = fault.New(fault.Host, "sudo sysctl it", "this computer lets ordinary users send no pings: permission denied")
	}, 0},
	{"broken-certificates", func(f *Facts) { f.CertError = errors.New("read SSL_CERT_FILE: no such file") }, 2},
	{"few-files", func(f *Facts) { f.Survey.OpenFiles = 256 }, 1},
	{"no-namespaces", func(f *Facts) {
		f.Namespaces = fault.New(fault.Host, "Allow them once.", "operation not permitted")
	}, 0},
	{"no-control-group", func(f *Facts) {
		f.Groups = cgroup.Outlook{Why: fault.New(fault.Host, "Linger.", "the control group of this login was not given to its user")}
	}, 0},
	{"given-control-group", func(f *Facts) { f.Groups.Scoped = false }, 0},
	{"old-systemd", func(f *Facts) { f.Groups.Controllers = []string{"memory", "pids"} }, 0},
	{"clock-behind", func(f *Facts) { f.Now = f.Built.AddDate(-1, 0, 0) }, 1},
	{"clock-free", func(f *Facts) { f.Survey.Synced = false }, 0},
	{"mac", func(f *Facts) {
		f.Host.OS, f.Host.Arch, f.KVM = "darwin", "arm64", host.Verdict{Reason: "KVM is a part of Linux"}
		f.Boot.Accel = "hvf"
	}, 0},
	{"windows", func(f *Facts) { f.Host.OS = "windows" }, 2},
	{"no-mkfs", func(f *Facts) {
		f.Formatter = fault.New(fault.Host, "Install it: sudo apt-get install e2fsprogs", "run mkfs.ext4: it is not installed")
	}, 1},
}

// TestHosts compares what is said about each computer with testdata/hosts.txt.
func TestHosts(t *testing.T) {
	var all strings.Builder
	usual := Examine(good())
	for _, h := range hosts {
		f := good()
		h.change(&f)
		report := Examine(f)
		if report.Exit() != h.exit || report.Usable != (h.exit != 2) {
			t.Errorf("%s: exit %d, usable %v; want %d", h.name, report.Exit(), report.Usable, h.exit)
		}
		fmt.Fprintf(&all, "-- %s --\n%s", h.name, differences(report, usual))
	}
	path := filepath.Join("testdata", "hosts.txt")
	if *update {
		if err := os.WriteFile(path, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if all.String() != string(want) {
		t.Errorf("%s differs; look at it with -update:\n%s", path, all.String())
	}
}

// differences are the checks that are not those of a good computer.
func differences(r, usual Report) string {
	var out strings.Builder
	for i, c := range r.Checks {
		if fmt.Sprint(c) == fmt.Sprint(usual.Checks[i]) {
			continue
		}
		fmt.Fprintf(&out, "%s %s: %s | %s | %s %q\n", c.State, c.Name, c.Found, c.Means, c.Fix, c.Commands)
	}
	return out.String() + r.Start + "\n"
}

// TestEveryLossHasAFix holds the promise that a check which is not ok says what
// it means or what to do.
func TestEveryLossHasAFix(t *testing.T) {
	for _, h := range hosts {
		f := good()
		h.change(&f)
		for _, c := range Examine(f).Checks {
			if c.Found == "" || c.State != OK && c.Means == "" && c.Fix == "" {
				t.Errorf("%s: %s says neither what it means nor what to do: %+v", h.name, c.Name, c)
			}
		}
	}
}
