package imagebuild

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"github.com/smolvm/smolvm/internal/unpack"
)

// bzImage wraps a payload as the kernel's build does.
func bzImage(payload []byte) []byte {
	const sectors, offset = 2, 16
	image := make([]byte, (sectors+1)*sector+offset)
	image[setupSectorsAt] = sectors
	copy(image[headerMagicAt:], "HdrS")
	binary.LittleEndian.PutUint32(image[payloadOffsetAt:], offset)
	binary.LittleEndian.PutUint32(image[payloadLengthAt:], uint32(len(payload)))
	return append(image, payload...)
}

// packed compresses with the encoder that layers are made with and appends the
// expanded size, as the kernel's build does.
func packedKernel(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, _, _, err := unpack.Compress(t.Context(), bytes.NewReader(plain), int64(len(plain)), &out); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.AppendUint32(out.Bytes(), uint32(len(plain)))
}

func TestVmlinuxIsTakenOutOfABzImage(t *testing.T) {
	self, err := os.Open(os.Args[0]) // an ELF file that every test has
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if _, err := elf.NewFile(self); err != nil {
		t.Skip("this system's programs are not ELF files")
	}
	program, err := io.ReadAll(self)
	if err != nil {
		t.Fatal(err)
	}
	kernel, ok, err := vmlinux(bzImage(packedKernel(t, program)))
	if err != nil || !ok || !bytes.Equal(kernel, program) {
		t.Fatalf("got %d bytes, %v, %v; want the %d bytes that went in", len(kernel), ok, err, len(program))
	}
}

func TestVmlinuxLeavesOthersAlone(t *testing.T) {
	for name, image := range map[string][]byte{
		"an arm64 Image": bytes.Repeat([]byte{1}, 4096), "a short file": []byte("MZ"),
		"gzip inside": bzImage([]byte("\x1f\x8b\x08 and more")),
	} {
		if _, ok, err := vmlinux(image); ok || err != nil {
			t.Errorf("%s: %v, %v; want it left as it is", name, ok, err)
		}
	}
}

func TestVmlinuxRefusesABrokenBzImage(t *testing.T) {
	cut := bzImage(packedKernel(t, []byte("no ELF")))
	for name, image := range map[string][]byte{
		"payload beyond the end": cut[:len(cut)-9], "payload that is no kernel": cut,
	} {
		if _, _, err := vmlinux(image); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
