package unpack

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// IsZstd reports whether data begins like a zstd frame.
func IsZstd(data []byte) bool {
	return bytes.HasPrefix(data, []byte{frameMagic & 0xFF, frameMagic >> 8 & 0xFF, frameMagic >> 16 & 0xFF, frameMagic >> 24})
}

// Plain expands ordinary zstd data of at most limit bytes that others made, for
// builds; a launch never reads anything but the frames of this format.
func Plain(data []byte, limit int64) ([]byte, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(uint64(limit)), zstd.WithDecoderMaxWindow(uint64(limit)))
	if err != nil {
		return nil, fmt.Errorf("read zstd data: %w", err)
	}
	defer decoder.Close()
	out, err := decoder.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("read zstd data: %w", err)
	}
	return out, nil
}
