package qemu

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// stand is a program in place of QEMU that answers as the script says.
func stand(t *testing.T, script string) *Driver {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return New(process.New(process.Options{Environ: []string{"PATH=" + dir + ":/usr/bin:/bin"}}), Host{OS: "linux", Arch: "amd64"})
}

const answering = `#!/bin/sh
case "$1 $2" in
"--version ") echo "QEMU emulator version VERSION (Debian)" ;;
"-accel help") printf 'Accelerators supported in QEMU binary:\ntcg\n' ;;
"-machine help") printf 'Supported machines are:\nMACHINE   some machine\n' ;;
*) exit 2 ;;
esac
`

func TestDescribe(t *testing.T) {
	script := strings.NewReplacer("VERSION", "9.2.1", "MACHINE", "microvm").Replace(answering)
	p, err := stand(t, script).Describe(t.Context(), "amd64")
	if err != nil || p.Version != "9.2.1" || len(p.Accelerators) != 1 || p.Machines[0] != "microvm" {
		t.Errorf("described %+v: %v", p, err)
	}
}

func TestDescribeRefuses(t *testing.T) {
	for name, c := range map[string]struct{ script, says string }{
		"old":      {strings.NewReplacer("VERSION", "7.1.0", "MACHINE", "microvm").Replace(answering), "netdev stream"},
		"ancient":  {strings.NewReplacer("VERSION", "4.2", "MACHINE", "microvm").Replace(answering), "version 4.2"},
		"machine":  {strings.NewReplacer("VERSION", "9.0.0", "MACHINE", "pc").Replace(answering), `no machine "microvm"`},
		"not QEMU": {"#!/bin/sh\necho hello\n", "is not QEMU"},
		"broken":   {"#!/bin/sh\necho cannot load library >&2; exit 127\n", "cannot load library"},
		"foreign":  {"\x7fELF\x02\x01\x01\x00 of another architecture", "another architecture"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := stand(t, c.script).Describe(t.Context(), "amd64")
			if err == nil || !strings.Contains(err.Error(), c.says) || fault.CodeOf(err) != fault.Host || fault.HintOf(err) == "" {
				t.Errorf("got %v, hint %q; want %q", err, fault.HintOf(err), c.says)
			}
		})
	}
}

func TestDescribeWithoutQEMU(t *testing.T) {
	d := New(process.New(process.Options{Environ: []string{"PATH=" + t.TempDir()}}), Host{OS: "linux", Arch: "amd64"})
	if _, err := d.Describe(t.Context(), "amd64"); !errors.As(err, new(*fault.Fault)) {
		t.Errorf("got %v", err)
	}
}

// TestStartNamesWhatIsWrongWithQEMU holds that a start with a useless QEMU says so
// instead of how it failed.
func TestStartNamesWhatIsWrongWithQEMU(t *testing.T) {
	for name, c := range map[string]struct{ script, says string }{
		"old":     {strings.NewReplacer("VERSION", "6.2.0", "MACHINE", "microvm").Replace(answering), "it lacks what 7.2 brought"},
		"foreign": {"\x7fELF\x02\x01\x01\x00 of another architecture", "another architecture"},
		"denied":  {"#!/bin/sh\n[ \"$1\" = -name ] || exec /bin/false\necho 'Could not open /x/kernel: Permission denied' >&2\nexit 1\n", "Permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "kernel")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := stand(t, c.script).Start(t.Context(), vmm.Spec{
				Name: "x", Arch: "amd64", Accel: vmm.TCG, CPUs: 1, MemoryMiB: 256, Kernel: file, Initrd: file, RunDir: t.TempDir(), Console: io.Discard,
			})
			if err == nil || !strings.Contains(err.Error(), c.says) || fault.CodeOf(err) != fault.Host {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestHintsForDenials(t *testing.T) {
	if hint := hintFor("qemu-system-x86_64: -blockdev: Could not open '/x': Permission denied"); !strings.Contains(hint, "AppArmor") {
		t.Errorf("hint %q", hint)
	}
	if hint := hintFor("Could not access KVM kernel module: Permission denied"); !strings.Contains(hint, "/dev/kvm") {
		t.Errorf("hint %q", hint)
	}
}
