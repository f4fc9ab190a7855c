// Package host finds out what this computer can do for a virtual machine: its
// processors, memory and clock, and whether KVM really runs a guest.
//
// Inputs are files of /proc and /sys, /dev/kvm and a probe guest the caller
// gives; outputs are values. The one file kept is the cache of KVM's verdict;
// it is replaced atomically and a damaged one is ignored.
package host

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Info is what is known about this computer without starting anything.
type Info struct {
	OS        string // runtime.GOOS
	Arch      string // runtime.GOARCH
	CPUs      int    // usable by this process
	MemoryMiB int64  // in total; 0: unknown
	TSCKHz    int64  // frequency of the invariant time-stamp counter in kHz; 0: none or unknown
	BootID    string // changes at every boot of the computer; empty: unknown
	Microcode string // of the first processor; empty: none or unknown
}

// Probe reads the facts about this computer. What cannot be read stays unknown.
func Probe() Info {
	i := Info{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}
	i.MemoryMiB = totalMemory() >> 20
	if i.OS == "linux" {
		i.read(os.DirFS("/"))
	}
	return i
}

// read fills in what Linux says in its file systems.
func (i *Info) read(root fs.FS) {
	if text, err := fs.ReadFile(root, "proc/sys/kernel/random/boot_id"); err == nil {
		i.BootID = strings.TrimSpace(string(text))
	}
	if text, err := fs.ReadFile(root, "proc/cpuinfo"); err == nil {
		cpu := firstProcessor(text)
		i.Microcode = cpu["microcode"]
		i.TSCKHz = tscKHz(cpu)
	}
}

// firstProcessor reads the first block of /proc/cpuinfo.
func firstProcessor(text []byte) map[string]string {
	cpu := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() && (lines.Text() != "" || len(cpu) == 0) {
		key, value, _ := strings.Cut(lines.Text(), ":")
		cpu[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return cpu
}

// tscKHz reads the frequency of an invariant time-stamp counter: the kernel
// calibrates its delay loop by it, so bogomips is exactly twice its MHz, with two
// decimals. (The field "cpu MHz" is the current clock instead.) A counter that
// changes or stops with the clock has no frequency.
func tscKHz(cpu map[string]string) int64 {
	has := map[string]bool{}
	for flag := range strings.FieldsSeq(cpu["flags"]) {
		has[flag] = true
	}
	mips, err := strconv.ParseFloat(cpu["bogomips"], 64)
	plausible := mips >= 200 && mips <= 100_000 // false for NaN too
	if err != nil || !has["constant_tsc"] || !has["nonstop_tsc"] || !plausible {
		return 0
	}
	return int64(mips*500 + 0.5)
}
