package catalogue

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/klauspost/compress/zstd"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
)

// SmallFrame is the smallest frame that the format allows: with it an archive of
// a few megabytes has a hundred of them.
const SmallFrame = 64 << 10

// AddSmall publishes bytes as an asset of small frames.
func (c *Catalogue) AddSmall(name string, data []byte) (manifest.Asset, error) {
	index, archive, err := pack(data)
	if err != nil {
		return manifest.Asset{}, err
	}
	packed, content := digest(archive), digest(data)
	return c.write(name, index, archive, packed, content)
}

// pack compresses each frame on its own, as the publishing side does with larger
// ones.
func pack(data []byte) (unpack.Index, []byte, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return unpack.Index{}, nil, err
	}
	defer encoder.Close()
	index := unpack.Index{Schema: 1, FrameSize: SmallFrame, Size: int64(len(data))}
	var archive []byte
	for at := 0; at < len(data); at += SmallFrame {
		plain := data[at:min(at+SmallFrame, len(data))]
		packed := encoder.EncodeAll(plain, nil)
		frame := unpack.Frame{Offset: int64(len(archive)), Length: int64(len(packed)), Compressed: digest(packed).SHA256}
		if frame.Zero = len(bytes.Trim(plain, "\x00")) == 0; !frame.Zero {
			frame.Content = digest(plain).SHA256
		}
		index.Frames = append(index.Frames, frame)
		archive = append(archive, packed...)
	}
	return index, archive, nil
}

func digest(data []byte) manifest.Digest {
	sum := sha256.Sum256(data)
	return manifest.Digest{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
}

// SmallDisk is an image of so many small frames: noise of the seed and the
// frame's number in each, and nothing in every eighth and in part of the others.
func SmallDisk(seed uint64, frames int) []byte {
	data := make([]byte, frames*SmallFrame)
	for i := range frames {
		if i%8 != 7 {
			Change(data, i, seed)
		}
	}
	return data
}

// Change gives a frame of a small disk other bytes.
func Change(disk []byte, frame int, seed uint64) {
	copy(disk[frame*SmallFrame+8192:], Noise(seed<<20+uint64(frame), 40_000))
}
