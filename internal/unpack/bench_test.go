package unpack

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkExpand reports bytes of real data a second (the sample has three
// parts of zeros to one of data, as a disk image does).
func BenchmarkExpand(b *testing.B) {
	archive, ix := compress(b, sample())
	b.SetBytes(ix.DataSize())
	for b.Loop() {
		out, err := os.Create(filepath.Join(b.TempDir(), "out"))
		if err != nil {
			b.Fatal(err)
		}
		if err := Expand(b.Context(), bytes.NewReader(archive), ix, out, nil); err != nil {
			b.Fatal(err)
		}
		out.Close()
	}
}

func BenchmarkCompress(b *testing.B) {
	data := sample()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		compress(b, data)
	}
}
