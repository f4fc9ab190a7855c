package unpack

import (
	"bytes"
	"context"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// checkedOrBuiltIn is the encoder to use, and what to call when no more is encoded.
func checkedOrBuiltIn(encode Encode) (Encode, func(), error) {
	if encode == nil {
		return builtIn()
	}
	decoder, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(workers(FrameSize)),
		zstd.WithDecoderMaxWindow(maxFrameSize),
		zstd.WithDecoderMaxMemory(maxFrameSize))
	if err != nil {
		return nil, nil, err
	}
	checked := func(ctx context.Context, data []byte) ([]byte, error) {
		packed, err := encode(ctx, data)
		if err != nil {
			return nil, err
		}
		return packed, checkFrame(decoder, packed, data)
	}
	return checked, decoder.Close, nil
}

// builtIn is the encoder of this program: fast, and on the same cores as the rest.
func builtIn() (Encode, func(), error) {
	encoder, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(FrameSize),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderConcurrency(workers(FrameSize)))
	if err != nil {
		return nil, nil, err
	}
	encode := func(_ context.Context, data []byte) ([]byte, error) { return encoder.EncodeAll(data, nil), nil }
	return encode, func() { _ = encoder.Close() }, nil // it writes nowhere
}

// checkFrame holds a frame to the rules of the archive format, and to what it has
// to expand to.
func checkFrame(decoder *zstd.Decoder, packed, data []byte) error {
	if len(packed) > len(data)+overhead {
		return fmt.Errorf("%w: %d bytes became %d", ErrFormat, len(data), len(packed))
	}
	if err := checkHeader(packed, int64(len(data)), FrameSize); err != nil {
		return err
	}
	expanded, err := decoder.DecodeAll(packed, make([]byte, 0, len(data)))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if !bytes.Equal(expanded, data) {
		return fmt.Errorf("%w: the encoder's frame expands to other bytes", ErrDigest)
	}
	return nil
}
