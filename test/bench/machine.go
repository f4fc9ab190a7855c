//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/host"
)

// describe says on what all this was measured.
func describe(ctx context.Context) (string, error) {
	facts := host.Probe()
	commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "", fmt.Errorf("ask git for the commit: %w", err)
	}
	qemu, err := exec.CommandContext(ctx, "qemu-system-x86_64", "--version").Output()
	if err != nil {
		qemu = []byte("unknown")
	}
	version, _, _ := strings.Cut(string(qemu), "\n")
	return fmt.Sprintf("## Machine\n\n| | |\n|---|---|\n| commit | %s |\n| date | %s |\n| processor | %s, %d cores, %s |\n| memory | %d MiB |\n| kernel | %s |\n| load before the run (1, 5, 15 minutes) | %s |\n| VMM | %s, emulation (no KVM that runs a guest) |\n| Go | %s |\n",
		strings.TrimSpace(string(commit)), time.Now().UTC().Format(time.DateOnly), model(), facts.CPUs, facts.Arch,
		facts.MemoryMiB, field("/proc/sys/kernel/osrelease", ""), load(), version, runtime.Version()), nil
}

// load is what else the machine was busy with: at more than a little, times say
// less than processor times.
func load() string {
	words := strings.Fields(field("/proc/loadavg", ""))
	return strings.Join(words[:min(3, len(words))], ", ")
}

func model() string { return field("/proc/cpuinfo", "model name") }

// field is the value of a "name : value" line of a file, or all of a file of one line.
func field(path, name string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(raw)) {
		key, value, found := strings.Cut(line, ":")
		if name == "" {
			return strings.TrimSpace(line)
		}
		if found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
