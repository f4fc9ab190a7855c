// Package kernel_test reads the final configurations of SmolVM's kernel and asserts
// what has to be in it and what must not be. `kernel/build` leaves such a file as
// `config`; the two beside this test are those of the last build.
package kernel_test

import (
	"bufio"
	"flag"
	"os"
	"strings"
	"testing"
)

var built = flag.String("config", "", "test this configuration instead, written ARCH:FILE")

// wanted are the symbols every guest needs, by what needs them.
var wanted = map[string]string{
	"virtio":           "VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES VIRTIO_PCI VIRTIO_BLK VIRTIO_NET VIRTIO_CONSOLE VIRTIO_BALLOON HW_RANDOM_VIRTIO VIRTIO_VSOCKETS VIRTIO_FS",
	"file systems":     "EXT4_FS EXT4_FS_POSIX_ACL OVERLAY_FS VFAT_FS NLS_CODEPAGE_437 NLS_ISO8859_1 NLS_UTF8 ISO9660_FS NET_9P 9P_FS NET_9P_VIRTIO FUSE_FS TMPFS TMPFS_XATTR PROC_FS SYSFS DEVTMPFS BLK_DEV_LOOP",
	"namespaces":       "NAMESPACES USER_NS NET_NS PID_NS UTS_NS IPC_NS TIME_NS CGROUPS",
	"control groups":   "MEMCG BLK_CGROUP BLK_DEV_THROTTLING CGROUP_SCHED FAIR_GROUP_SCHED CFS_BANDWIDTH CGROUP_PIDS CGROUP_FREEZER CGROUP_DEVICE CGROUP_CPUACCT CGROUP_HUGETLB CGROUP_PERF CGROUP_BPF CGROUP_RDMA CGROUP_MISC CPUSETS CGROUP_NET_PRIO CGROUP_NET_CLASSID",
	"confinement":      "SECCOMP SECCOMP_FILTER SECURITY SECURITY_LANDLOCK BPF_SYSCALL BPF_UNPRIV_DEFAULT_OFF KEYS",
	"nf_tables":        "NETFILTER NETFILTER_ADVANCED NF_TABLES NF_TABLES_INET NF_TABLES_IPV4 NF_TABLES_IPV6 NFT_NAT NFT_MASQ NFT_CT NFT_REJECT NFT_FIB_INET NFT_REDIR NFT_COMPAT NF_CONNTRACK NF_NAT",
	"iptables":         "IP_NF_IPTABLES IP_NF_NAT IP_NF_FILTER IP_NF_MANGLE IP_NF_RAW IP6_NF_IPTABLES IP6_NF_NAT IP6_NF_FILTER IP6_NF_MANGLE IP6_NF_RAW NETFILTER_XT_MATCH_ADDRTYPE NETFILTER_XT_MATCH_CONNTRACK NETFILTER_XT_MATCH_COMMENT NETFILTER_XT_MATCH_MULTIPORT NETFILTER_XT_TARGET_MASQUERADE",
	"container links":  "VETH BRIDGE BRIDGE_NETFILTER TUN MACVLAN",
	"network":          "NET INET IPV6 UNIX PACKET VSOCKETS",
	"messages":         "POSIX_MQUEUE SYSVIPC EPOLL EVENTFD SIGNALFD TIMERFD",
	"programs":         "BINFMT_ELF BINFMT_SCRIPT BINFMT_MISC IO_URING AIO FUTEX MEMFD_CREATE",
	"watching files":   "INOTIFY_USER FANOTIFY FHANDLE",
	"memory":           "SWAP ZRAM PSI TRANSPARENT_HUGEPAGE BALLOON_COMPACTION",
	"start":            "BLK_DEV_INITRD PRINTK PRINTK_TIME TTY UNIX98_PTYS VMGENID SMP",
	"memory hardening": "STACKPROTECTOR_STRONG HARDENED_USERCOPY STRICT_KERNEL_RWX VMAP_STACK RANDOMIZE_BASE",
}

var wantedOn = map[string]string{
	"amd64": "X86_64 PVH KVM_GUEST PARAVIRT PARAVIRT_CLOCK ACPI PCI SERIAL_8250_CONSOLE SERIAL_8250_PNP X86_X2APIC",
	"arm64": "ARM64 ARM_GIC ARM_GIC_V3 ARM_PSCI_FW SERIAL_AMBA_PL011_CONSOLE SERIAL_8250_CONSOLE OF PCI PCI_HOST_GENERIC ARM_ARCH_TIMER RTC_DRV_PL031 RTC_HCTOSYS",
}

const unwanted = "MODULES USB USB_SUPPORT SOUND BT WIRELESS WLAN CFG80211 DRM FB ATA SATA_AHCI SCSI MD MD_AUTODETECT DEVMEM KEXEC KEXEC_FILE " +
	"LEGACY_PTYS VXLAN INPUT VT SERIO ETHERNET HIBERNATION DEBUG_INFO_DWARF5 MAGIC_SYSRQ IA32_EMULATION PROC_KCORE BPF_UNPRIV_DEFAULT_ON"

func TestFinalConfigurations(t *testing.T) {
	files := map[string]string{"amd64": "amd64.final", "arm64": "arm64.final"}
	if *built != "" {
		arch, file, ok := strings.Cut(*built, ":")
		if !ok {
			t.Fatalf("-config %q is not ARCH:FILE", *built)
		}
		files = map[string]string{arch: file}
	}
	for arch, file := range files {
		t.Run(arch, func(t *testing.T) {
			check(t, arch, read(t, file))
		})
	}
}

func check(t *testing.T, arch string, on map[string]bool) {
	t.Helper()
	need := map[string]string{arch: wantedOn[arch]}
	for purpose, symbols := range wanted {
		need[purpose] = symbols
	}
	for purpose, symbols := range need {
		for symbol := range strings.FieldsSeq(symbols) {
			if !on[symbol] {
				t.Errorf("%s needs CONFIG_%s", purpose, symbol)
			}
		}
	}
	for symbol := range strings.FieldsSeq(unwanted) {
		if on[symbol] {
			t.Errorf("CONFIG_%s is on", symbol)
		}
	}
}

// TestFragmentsAreHonoured finds lines of the fragments that the final
// configuration does not have: a symbol that was renamed, or depends on another.
func TestFragmentsAreHonoured(t *testing.T) {
	if *built != "" {
		t.Skip("another configuration was named")
	}
	for _, arch := range []string{"amd64", "arm64"} {
		final := lines(t, arch+".final")
		for _, fragment := range []string{"common.config", arch + ".config"} {
			for line := range lines(t, fragment) {
				symbol, value, ok := strings.Cut(line, "=")
				if !ok || !strings.HasPrefix(symbol, "CONFIG_") {
					continue
				}
				if value == "n" && (final[symbol+"=y"] || final[symbol+"=m"]) || value != "n" && !final[line] {
					t.Errorf("%s: %s of %s is not honoured", arch, line, fragment)
				}
			}
		}
	}
}

func TestNothingIsAModule(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		for line := range lines(t, arch+".final") {
			if strings.HasPrefix(line, "CONFIG_") && strings.HasSuffix(line, "=m") {
				t.Errorf("%s: %s", arch, line)
			}
		}
	}
}

// read gives the symbols that are on.
func read(t *testing.T, file string) map[string]bool {
	t.Helper()
	on := map[string]bool{}
	for line := range lines(t, file) {
		if symbol, ok := strings.CutSuffix(line, "=y"); ok {
			on[strings.TrimPrefix(symbol, "CONFIG_")] = true
		}
	}
	return on
}

func lines(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]bool{}
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		all[scanner.Text()] = true
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
