//go:build linux

package boot

import (
	"encoding/binary"
	"testing"
)

func TestExtent(t *testing.T) {
	head := make([]byte, 1024+512)
	put := func(at int, value uint32) { binary.LittleEndian.PutUint32(head[1024+at:], value) }
	put(0x04, 5)
	put(0x18, 2)
	put(0x150, 1)
	if blocks, size := extent(head); blocks != 5 || size != 4096 {
		t.Errorf("without 64bit: %d blocks of %d", blocks, size)
	}
	put(0x60, 0x80)
	if blocks, size := extent(head); blocks != 1<<32+5 || size != 4096 {
		t.Errorf("with 64bit: %d blocks of %d", blocks, size)
	}
	put(0x18, 1<<31)
	if _, size := extent(head); size != 64<<10 {
		t.Errorf("a mad block size gives %d", size)
	}
}
