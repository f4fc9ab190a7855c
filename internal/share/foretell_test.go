package share

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// said takes a foretold message apart.
func said(t *testing.T, b []byte) (opcode uint32, node, file uint64, body []byte) {
	t.Helper()
	in := reader{rest: b}
	opcode = in.uint32()
	in.uint32()
	node, file = in.uint64(), in.uint64()
	if in.short {
		t.Fatalf("% x", b)
	}
	return opcode, node, file, in.rest
}

func TestFolderIsForetoldAfterAChange(t *testing.T) {
	dir := t.TempDir()
	k := mounted(t, dir, false)
	k.must(opMkdir, k.root, uint32(0o755), uint32(0), "a")
	if len(k.foretold) != 1 {
		t.Fatalf("%d foretold", len(k.foretold))
	}
	opcode, node, _, body := said(t, k.foretold[0])
	if opcode != opGetattr || node != k.root || len(body) != 16+attrSize {
		t.Errorf("operation %d, node %d, %d bytes", opcode, node, len(body))
	}
	asked := k.must(opGetattr, k.root, uint32(0), uint32(0), uint64(0))
	if string(asked) != string(body) {
		t.Errorf("foretold % x\nthen told % x", body, asked)
	}
	a := k.lookup(k.root, "a")
	write(t, filepath.Join(dir, "file"), "")
	k.must(opRename, k.root, a, "file", "file")
	if len(k.foretold) != 2 {
		t.Errorf("%d foretold of two folders", len(k.foretold))
	}
}

func TestSmallFileIsForetoldWhenItIsOpened(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"small": 10, "edge": maxForetold, "large": maxForetold + 1, "empty": 0} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		k := mounted(t, dir, false)
		n := k.lookup(k.root, name)
		handle := binary.LittleEndian.Uint64(k.must(opOpen, n, uint32(0), uint32(0)))
		if want := size > 0 && size <= maxForetold; len(k.foretold) == 1 != want {
			t.Errorf("%s: %d foretold", name, len(k.foretold))
		} else if want {
			opcode, node, file, body := said(t, k.foretold[0])
			if opcode != opRead || node != n || file != handle || len(body) != size {
				t.Errorf("%s: operation %d, node %d, file %d, %d bytes", name, opcode, node, file, len(body))
			}
		}
		k.must(opOpen, n, uint32(0), uint32(0)) // the guest has its pages now
		k.must(opOpen, n, uint32(openWrite), uint32(0))
		if len(k.foretold) != 0 {
			t.Errorf("%s: foretold to a writer", name)
		}
	}
}

func TestSiblingsAreForetoldToWhoLooksThroughAFolder(t *testing.T) {
	dir := t.TempDir()
	for i := range 200 {
		write(t, filepath.Join(dir, fmt.Sprintf("%03d", i)), "")
	}
	k := mounted(t, dir, false)
	told := map[string]bool{}
	asked := 0
	for i := range 200 {
		name := fmt.Sprintf("%03d", i)
		if told[name] {
			continue
		}
		asked++
		k.lookup(k.root, name)
		for _, b := range k.foretold {
			opcode, node, _, body := said(t, b)
			if opcode != opLookup || node != k.root || len(body) != entrySize+3 {
				t.Fatalf("operation %d, node %d, %d bytes", opcode, node, len(body))
			}
			told[string(body[entrySize:])] = true
		}
	}
	if asked > 10 {
		t.Errorf("%d lookups of 200 files", asked)
	}
	k.must(opLookup, k.root, "none")
	if len(k.foretold) != 0 {
		t.Error("foretold to who looks for what is not there")
	}
}
