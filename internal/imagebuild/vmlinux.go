package imagebuild

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"

	"github.com/smolvm/smolvm/internal/unpack"
)

// Places in the header of an x86 bzImage, from the kernel's
// Documentation/arch/x86/boot.rst.
const (
	setupSectorsAt  = 0x1F1 // sectors of 512 bytes of real-mode code, without the first
	headerMagicAt   = 0x202 // "HdrS"
	payloadOffsetAt = 0x248 // from the start of the protected-mode code
	payloadLengthAt = 0x24C
	headerEnd       = 0x250
	sector          = 512
)

// maxKernel bounds an unpacked kernel in bytes; Debian's cloud kernel has 57 MB.
const maxKernel = 256 << 20

// vmlinux takes the kernel proper out of an x86 bzImage. An emulated guest needs
// 0.6 s to unpack it at every boot; published unpacked, it travels compressed all
// the same. ok is false for an image of another kind, which boots as it is.
func vmlinux(image []byte) (kernel []byte, ok bool, err error) {
	if len(image) < headerEnd || string(image[headerMagicAt:headerMagicAt+4]) != "HdrS" {
		return nil, false, nil
	}
	sectors := uint64(image[setupSectorsAt])
	if sectors == 0 {
		sectors = 4 // what old boot loaders assume
	}
	from := (sectors+1)*sector + uint64(binary.LittleEndian.Uint32(image[payloadOffsetAt:]))
	to := from + uint64(binary.LittleEndian.Uint32(image[payloadLengthAt:]))
	if to > uint64(len(image)) || to-from < 8 {
		return nil, false, fmt.Errorf("kernel image: its payload lies at %d-%d of %d bytes", from, to, len(image))
	}
	payload := image[from : to-4] // the last four bytes are the expanded size
	if !unpack.IsZstd(payload) {
		return nil, false, nil
	}
	kernel, err = unpack.Plain(payload, maxKernel)
	if err != nil {
		return nil, false, fmt.Errorf("kernel image: %w", err)
	}
	if _, err := elf.NewFile(bytes.NewReader(kernel)); err != nil {
		return nil, false, fmt.Errorf("kernel image: its payload is no kernel: %w", err)
	}
	return kernel, true, nil
}
