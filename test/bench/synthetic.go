//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
	"github.com/smolvm/smolvm/test/catalogue"
)

const (
	diskSize   = 4 << 30
	diskFrames = diskSize / unpack.FrameSize
	fullEvery  = 16 // of so many frames in a row the first five hold data
	fullRun    = 5
)

// synthetic is a published image of 4 GiB with 1 GiB of data.
type synthetic struct {
	image
	catalogue *catalogue.Catalogue
	disk      madeDisk
}

// synthetic makes it once.
func (b *bench) synthetic(ctx context.Context) (*synthetic, error) {
	if b.made != nil {
		return b.made, nil
	}
	folder := filepath.Join(b.scratch, "synthetic")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	c, err := catalogue.Make(ctx, folder, time.Now())
	if err != nil {
		return nil, err
	}
	s := &synthetic{catalogue: c, image: image{title: "4 GiB with 1 GiB of data", folder: folder, key: filepath.Join(b.scratch, "key.pub")}}
	if err := errors.Join(os.WriteFile(s.key, []byte(c.PublicKey), 0o644), s.publish(ctx)); err != nil {
		return nil, err
	}
	b.made = s
	return s, nil
}

// publish packs the disk as it is now and signs a manifest with it.
func (s *synthetic) publish(ctx context.Context) error {
	layer, err := addDisk(ctx, s.folder, &s.disk)
	if err != nil {
		return err
	}
	rows := s.catalogue.Manifest.Rows
	for n := range rows {
		rows[n].Layers = []manifest.Asset{layer}
	}
	s.catalogue.Manifest.Serial++
	if err := s.catalogue.Publish(); err != nil {
		return err
	}
	s.row, err = rowOf(s.folder)
	return err
}

func (s *synthetic) describe() string {
	return fmt.Sprintf("A disk made for this: of its %d frames %d are empty, the others hold runs of 16 KiB to 1 MiB of words, of records and, a tenth, of noise, with holes between them: %s of data, which pack to %.2f of that.",
		diskFrames, diskFrames-s.disk.used(), mib(s.disk.data()), float64(s.size())/float64(s.disk.data()))
}

// addDisk publishes a disk as a layer; it is never in memory as a whole.
func addDisk(ctx context.Context, folder string, d *madeDisk) (manifest.Asset, error) {
	temp, err := os.CreateTemp(folder, "disk-")
	if err != nil {
		return manifest.Asset{}, err
	}
	defer temp.Close()
	index, packed, content, err := unpack.Compress(ctx, d, diskSize, temp)
	if err != nil {
		return manifest.Asset{}, err
	}
	raw, err := index.Encode()
	if err != nil {
		return manifest.Asset{}, err
	}
	sum := sha256.Sum256(raw)
	described := manifest.Digest{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(raw))}
	asset := manifest.Asset{
		Name: "base", Content: content,
		Archive: manifest.Blob{File: manifest.FileName("base", packed.SHA256, ".zst"), Digest: packed},
		Index:   manifest.Blob{File: manifest.FileName("base", described.SHA256, ".json"), Digest: described},
	}
	return asset, errors.Join(
		temp.Chmod(0o644),
		os.Rename(temp.Name(), filepath.Join(folder, asset.Archive.File)),
		os.WriteFile(filepath.Join(folder, asset.Index.File), raw, 0o644))
}

// madeDisk is made up as it is read, always the same: frame by frame from the
// frame's number. Changed frames get another block at their start.
type madeDisk struct {
	changed map[int]bool
	words   []string
}

// full says whether a frame holds anything.
func full(frame int) bool { return frame%fullEvery < fullRun }

func (*madeDisk) used() (n int) {
	for frame := range diskFrames {
		if full(frame) {
			n++
		}
	}
	return n
}

// data is how many bytes lie in runs.
func (d *madeDisk) data() (n int64) {
	for frame := range diskFrames {
		if full(frame) {
			random := rand.New(rand.NewPCG(uint64(frame), 4))
			runs(random, func(_, length int) { n += int64(length) })
		}
	}
	return n
}

// ReadAt reads whole frames, as Compress does.
func (d *madeDisk) ReadAt(p []byte, at int64) (int, error) {
	if at%unpack.FrameSize != 0 || len(p) != unpack.FrameSize {
		return 0, fmt.Errorf("read %d bytes at %d: not a frame", len(p), at)
	}
	clear(p)
	if frame := int(at / unpack.FrameSize); full(frame) {
		d.fill(p, frame)
	}
	return len(p), nil
}

// runs places extents in a frame as a file system does: 16 KiB to 1 MiB, with
// gaps of up to 256 KiB, all of whole blocks.
func runs(random *rand.Rand, f func(at, length int)) {
	const block = 4096
	for at := 0; at < unpack.FrameSize; {
		length := min((4+random.IntN(252))*block, unpack.FrameSize-at)
		f(at, length)
		at += length + (1+random.IntN(63))*block
	}
}

func (d *madeDisk) fill(p []byte, frame int) {
	if d.words == nil {
		d.words = vocabulary()
	}
	random, content := rand.New(rand.NewPCG(uint64(frame), 4)), rand.New(rand.NewPCG(uint64(frame), 5))
	runs(random, func(at, length int) { d.extent(content, p[at:at+length]) })
	if d.changed[frame] {
		noise(rand.New(rand.NewPCG(uint64(frame), 6)), p[:4096])
	}
}

// extent is text in five of ten cases, records in four, noise in one.
func (d *madeDisk) extent(random *rand.Rand, p []byte) {
	switch random.IntN(10) {
	case 0, 1, 2, 3, 4:
		for n := 0; n < len(p); {
			// The product of two: few words are frequent, most are rare.
			n += copy(p[n:], d.words[random.IntN(len(d.words))*random.IntN(len(d.words))/len(d.words)])
		}
	case 5, 6, 7, 8:
		address := random.Uint32()
		for n := 0; n+8 <= len(p); n += 8 {
			address += uint32(random.IntN(64))
			copy(p[n:], []byte{0x48, byte(random.IntN(12)), byte(address), byte(address >> 8), byte(address >> 16), 0, byte(random.IntN(4)), 0})
		}
	default:
		noise(random, p)
	}
}

func noise(random *rand.Rand, p []byte) {
	for n := 0; n+8 <= len(p); n += 8 {
		word := random.Uint64()
		for k := range 8 {
			p[n+k] = byte(word >> (8 * k))
		}
	}
}

// vocabulary are words and separators as source code has them.
func vocabulary() []string {
	random := rand.New(rand.NewPCG(1, 7))
	words := make([]string, 2048)
	for n := range words {
		word := make([]byte, 2+random.IntN(9))
		for k := range word {
			word[k] = "etaoinshrdlcumwfgypbvkjxqz_ABCDE"[random.IntN(32)*random.IntN(32)/32]
		}
		words[n] = string(word) + []string{" ", " ", ".", "(", ");\n", ", ", " = ", "\n\t"}[random.IntN(8)]
	}
	return words
}

// upgrade publishes the disk with a twentieth of its frames changed and counts
// what a pull over the earlier one downloads.
func (b *bench) upgrade(ctx context.Context) (text string, err error) {
	s, err := b.synthetic(ctx)
	if err != nil {
		return "", err
	}
	server, err := startNginx(ctx, s.folder)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	home := filepath.Join(b.scratch, "upgrade")
	if err := fresh(home); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, empty(home)) }()
	first, err := watched(b.pull(ctx, s.image, server.address, home))
	if err != nil {
		return "", err
	}
	whole, err := server.sent(ctx, "")
	if err != nil {
		return "", err
	}
	s.disk.changed = map[int]bool{}
	for frame := 0; len(s.disk.changed) < s.disk.used()/20; frame += 2 * fullEvery {
		s.disk.changed[frame] = true
	}
	if err := s.publish(ctx); err != nil {
		return "", err
	}
	second, err := watched(b.pull(ctx, s.image, server.address, home))
	if err != nil {
		return "", err
	}
	both, err := server.sent(ctx, "")
	if err != nil {
		return "", err
	}
	part := float64(both-whole) / float64(whole)
	return fmt.Sprintf("## Upgrade\n\nThe 4 GiB image again, then a release in which %d of its %d frames that hold data have another block, %.1f %%. Once; bytes as nginx sent them, headers, manifest and index included.\n\n| | bytes | time |\n|---|---|---|\n| first release | %s | %s |\n| second release | %s | %s |\n| ratio | %.3f (%s) | %.2f |\n",
		len(s.disk.changed), s.disk.used(), 100*float64(len(s.disk.changed))/float64(s.disk.used()), mib(whole), show(first.wall), mib(both-whole), show(second.wall),
		part, verdict(part, 0.07), second.wall.Seconds()/first.wall.Seconds()), nil
}
