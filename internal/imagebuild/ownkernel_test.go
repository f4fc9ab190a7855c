package imagebuild

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

// pvhKernel is the smallest ELF file that a VMM would enter by its PVH note.
func pvhKernel(t *testing.T, machine elf.Machine, noteType uint32) string {
	t.Helper()
	note := append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(
		binary.LittleEndian.AppendUint32(nil, 4), 8), noteType), "Xen\x00\x00\x00\x00\x01\x00\x00\x00\x00"...)
	head := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	part := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 120, Filesz: uint64(len(note)), Memsz: uint64(len(note)), Align: 4}
	var out bytes.Buffer
	for _, v := range []any{head, part, note} {
		if err := binary.Write(&out, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func armKernel() string { return strings.Repeat("\x00", 56) + "ARM\x64" + strings.Repeat("\x00", 64) }

// kernelFolder is what kernel/build leaves, with what the case changes; an empty
// text leaves the file out.
func kernelFolder(t *testing.T, change map[string]string) string {
	t.Helper()
	files := map[string]string{
		"vmlinux": pvhKernel(t, elf.EM_X86_64, pvhEntry), "Image": armKernel(), "release": "6.12.117-smolvm-debian\n",
		"source.txt": "Debian's linux-source-6.12 6.12.117-1\nsha256 " + strings.Repeat("5", 64) + "\ngcc 12\n",
	}
	dir := t.TempDir()
	for name, text := range files {
		if other, changed := change[name]; changed {
			text = other
		}
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOwnKernelIsRead(t *testing.T) {
	dir := kernelFolder(t, nil)
	for arch, file := range ownKernelFiles {
		k, err := readOwnKernel(dir, arch)
		if err != nil {
			t.Fatal(err)
		}
		if k.image != filepath.Join(dir, file) || k.release != "6.12.117-smolvm-debian" || k.input.Size == 0 || !sha256Hex(k.input.SHA256) {
			t.Errorf("%s: %+v", arch, k)
		}
		want := Input{Name: "Debian's linux-source-6.12 6.12.117-1", Version: k.release, SHA256: strings.Repeat("5", 64)}
		if diff := cmp.Diff(want, k.source); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOwnKernelThatCannotBeUsed(t *testing.T) {
	good := pvhKernel(t, elf.EM_X86_64, pvhEntry)
	for name, c := range map[string]struct {
		arch   string
		change map[string]string
		code   fault.Code
		want   string
	}{
		"no image":              {"amd64", map[string]string{"vmlinux": ""}, fault.NotFound, "left for amd64"},
		"another architecture":  {"arm64", map[string]string{"Image": ""}, fault.NotFound, "left for arm64"},
		"no release":            {"amd64", map[string]string{"release": ""}, fault.NotFound, "release"},
		"no source":             {"amd64", map[string]string{"source.txt": ""}, fault.NotFound, "source.txt"},
		"ELF of another":        {"amd64", map[string]string{"vmlinux": pvhKernel(t, elf.EM_AARCH64, pvhEntry)}, fault.Usage, "x86-64"},
		"bzImage":               {"amd64", map[string]string{"vmlinux": "MZ and so on"}, fault.Usage, "x86-64"},
		"ELF without PVH":       {"amd64", map[string]string{"vmlinux": pvhKernel(t, elf.EM_X86_64, 6)}, fault.Usage, "PVH"},
		"note cut short":        {"amd64", map[string]string{"vmlinux": good[:len(good)-9]}, fault.Usage, "note"},
		"ELF file as Image":     {"arm64", map[string]string{"Image": good}, fault.Usage, "arm64"},
		"short Image":           {"arm64", map[string]string{"Image": "MZ"}, fault.Usage, "arm64"},
		"release of spaces":     {"amd64", map[string]string{"release": " \n"}, fault.Usage, "release"},
		"release of two words":  {"amd64", map[string]string{"release": "6.12 smolvm"}, fault.Usage, "release"},
		"release with escape":   {"amd64", map[string]string{"release": "6.12\x1b[31m"}, fault.Usage, "release"},
		"release of two lines":  {"amd64", map[string]string{"release": "6.12\n6.13"}, fault.Usage, "release"},
		"release too long":      {"amd64", map[string]string{"release": "6.12" + strings.Repeat("1", 60)}, fault.Usage, "release"},
		"source without digest": {"amd64", map[string]string{"source.txt": "linux-6.12.tar.xz\n"}, fault.Usage, "SHA-256"},
		"source without words":  {"amd64", map[string]string{"source.txt": "\nsha256 " + strings.Repeat("5", 64)}, fault.Usage, "SHA-256"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readOwnKernel(kernelFolder(t, c.change), c.arch)
			if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v (%v), want %v with %q", err, fault.CodeOf(err), c.code, c.want)
			}
		})
	}
}

func TestOwnKernelIsPublished(t *testing.T) {
	b, machines := newBuilder(t, t.TempDir())
	b.base.Kernel.OwnCommandLine = "quiet own"
	request := demoRequest()
	standIn, err := b.Plan(request)
	if err != nil {
		t.Fatal(err)
	}
	request.Kernel = kernelFolder(t, nil)
	images, err := b.Build(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range machines.specs {
		if spec.Image.Modules != "" || spec.Image.StandIn != "" || spec.Image.CommandLine != "quiet own" {
			t.Errorf("build sandbox of %+v", spec.Image)
		}
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	m, err := newPublication(t, b, &now).Publish(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	k := m.Rows[0].Kernel
	if k.Version != "6.12.117-smolvm-debian" || k.StandIn != "" || k.Modules != nil || k.CommandLine != "quiet own" ||
		k.Source != "Debian's linux-source-6.12 6.12.117-1" {
		t.Errorf("the row's kernel: %+v", k)
	}
	own, err := b.Plan(request)
	if err != nil || own.Kernel.Key == standIn.Kernel.Key || own.Base.Key != standIn.Base.Key || own.Layers[0].Key != standIn.Layers[0].Key {
		t.Errorf("another kernel must change its own key only: %v\n%s", err, cmp.Diff(standIn.Layers, own.Layers))
	}
}

func TestKernelFolderThatIsNoneEndsThePlan(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	request := demoRequest()
	request.Kernel = t.TempDir()
	if _, err := b.Plan(request); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("error %v", err)
	}
}

func FuzzNotes(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x12\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, notes []byte) { hasNote(notes, "Xen\x00", pvhEntry) })
}
