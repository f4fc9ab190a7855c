// Package fat writes small FAT volumes: the form in which a NoCloud seed reaches
// a guest. Input is a label and files with their contents; output is the bytes
// of an unpartitioned FAT12 or FAT16 volume with long names, equal for equal
// input. It writes nothing of its own to disk.
//
// The format is Microsoft's "FAT32 File System Specification" 1.03, which also
// covers FAT12 and FAT16; section numbers below are its.
package fat

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	sectorSize  = 512
	clusterSize = sectorSize // one sector: seeds are small and read once
	dirEntry    = 32         // bytes
	firstData   = 2          // number of the first cluster

	// alignSectors makes the volume a multiple of 4 KiB, which every VMM and
	// every host file system takes; it is also the number of sectors a track, so
	// that the (meaningless) geometry fits the size.
	alignSectors = 8

	// A volume is FAT12 below 4085 clusters and FAT16 below 65525 (section 3.5).
	// Some readers are off by up to 16 at these borders, so both stay away from them.
	maxFAT12    = 4085 - 32
	minFAT16    = 4085 + 32
	maxClusters = 65525 - 32

	minClusters = 64
)

// MaxContent is the largest sum of file sizes in bytes, each rounded up to 512.
const MaxContent = (maxClusters - alignSectors) * clusterSize

// File is one file in the volume's root directory.
type File struct {
	Name string // 1 to 255 characters, distinct also where case is ignored
	Data []byte
}

// Write writes a volume with the files in the given order. The label has up to
// 11 characters of A-Z, 0-9, '-' and '_'.
func Write(w io.Writer, label string, files []File) error {
	volume, err := plan(label, files)
	if err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	for _, part := range [][]byte{volume.boot(), volume.table(), volume.table(), volume.root} {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write FAT volume: %w", err)
		}
	}
	if err := volume.data(w); err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	return nil
}

// volume is a layout: boot sector, two allocation tables, root directory, clusters.
type volume struct {
	label    [11]byte
	files    []File
	root     []byte // the root directory, whole sectors
	clusters int
	fat16    bool
	fatSize  int // sectors of one allocation table
	total    int // sectors of the volume
}

func plan(label string, files []File) (*volume, error) {
	v := &volume{files: files}
	if err := v.setLabel(label); err != nil {
		return nil, err
	}
	used := 0
	for _, f := range files {
		// Compared one by one, so that the sum cannot overflow.
		if len(f.Data) > MaxContent || used > MaxContent/clusterSize {
			return nil, fmt.Errorf("the files take more than %d bytes", MaxContent)
		}
		used += clustersOf(f)
	}
	if used > MaxContent/clusterSize {
		return nil, fmt.Errorf("the files take more than %d bytes", MaxContent)
	}
	root, err := rootDirectory(v.label, files)
	if err != nil {
		return nil, err
	}
	v.root = root
	v.setSize(max(used, minClusters))
	return v, nil
}

// setLabel pads the label with spaces, as directories store it.
func (v *volume) setLabel(label string) error {
	if label == "" || len(label) > len(v.label) {
		return fmt.Errorf("label %q does not have 1 to %d characters", label, len(v.label))
	}
	for i := range v.label {
		v.label[i] = ' '
	}
	for i := range len(label) {
		if !shortChar(label[i]) {
			return fmt.Errorf("label %q has a character that labels cannot have", label)
		}
		v.label[i] = label[i]
	}
	return nil
}

// setSize chooses the table's width and grows the number of clusters until the
// volume's size is aligned.
func (v *volume) setSize(clusters int) {
	if v.fat16 = clusters+alignSectors > maxFAT12; v.fat16 {
		clusters = max(clusters, minFAT16)
	}
	for ; ; clusters++ {
		v.clusters = clusters
		v.fatSize = sectors(v.entryOffset(clusters + firstData + 1))
		v.total = 1 + 2*v.fatSize + len(v.root)/sectorSize + clusters
		if v.total%alignSectors == 0 {
			return
		}
	}
}

// entryOffset is the byte offset of a cluster's table entry, rounded down.
func (v *volume) entryOffset(cluster int) int {
	if v.fat16 {
		return cluster * 2
	}
	return cluster * 3 / 2
}

func clustersOf(f File) int { return (len(f.Data) + clusterSize - 1) / clusterSize }

func sectors(bytes int) int { return (bytes + sectorSize - 1) / sectorSize }

// boot is the boot sector with the BIOS parameter block (sections 3.1 and 3.3).
func (v *volume) boot() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b, "\xeb\x3c\x90SMOLVM  ") // jump over the block, name of the maker
	le.PutUint16(b[11:], sectorSize)
	b[13] = clusterSize / sectorSize
	le.PutUint16(b[14:], 1) // reserved sectors: this one
	b[16] = 2               // allocation tables
	le.PutUint16(b[17:], uint16(len(v.root)/dirEntry))
	if v.total < 1<<16 {
		le.PutUint16(b[19:], uint16(v.total))
	} else {
		le.PutUint32(b[32:], uint32(v.total))
	}
	b[21] = mediaFixed
	le.PutUint16(b[22:], uint16(v.fatSize))
	le.PutUint16(b[24:], alignSectors) // sectors a track
	le.PutUint16(b[26:], 16)           // heads
	b[36] = 0x80                       // drive number of a fixed disk
	b[38] = 0x29                       // the next three fields are there
	le.PutUint32(b[39:], v.serial())
	copy(b[43:], v.label[:])
	copy(b[54:], "FAT12   ")
	if v.fat16 {
		copy(b[54:], "FAT16   ")
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

// mediaFixed is the media descriptor of a fixed disk.
const mediaFixed = 0xf8

// serial is the volume's serial number: of the contents, so that equal input
// gives equal bytes.
func (v *volume) serial() uint32 {
	h := crc32.NewIEEE()
	for _, f := range v.files {
		_, _ = io.WriteString(h, f.Name) // a hash never fails
		_, _ = h.Write(f.Data)
	}
	return h.Sum32()
}

// table is one allocation table: the files' clusters follow each other.
func (v *volume) table() []byte {
	t := make([]byte, v.fatSize*sectorSize)
	end := 0xfff
	if v.fat16 {
		end = 0xffff
	}
	v.put(t, 0, end&^0xff|mediaFixed)
	v.put(t, 1, end) // also says: cleanly unmounted, no errors
	next := firstData
	for _, f := range v.files {
		for n := clustersOf(f); n > 0; n-- {
			follower := next + 1
			if n == 1 {
				follower = end
			}
			v.put(t, next, follower)
			next++
		}
	}
	return t
}

// put sets one table entry; two FAT12 entries share three bytes.
func (v *volume) put(table []byte, cluster, value int) {
	at := v.entryOffset(cluster)
	switch {
	case v.fat16:
		binary.LittleEndian.PutUint16(table[at:], uint16(value))
	case cluster%2 == 0:
		table[at] = byte(value)
		table[at+1] = table[at+1]&0xf0 | byte(value>>8)
	default:
		table[at] = table[at]&0x0f | byte(value<<4)
		table[at+1] = byte(value >> 4)
	}
}

// data writes the clusters: each file's bytes, then zeros to the volume's end.
func (v *volume) data(w io.Writer) error {
	left := v.clusters
	for _, f := range v.files {
		if _, err := w.Write(f.Data); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, clustersOf(f)*clusterSize-len(f.Data))); err != nil {
			return err
		}
		left -= clustersOf(f)
	}
	_, err := w.Write(make([]byte, left*clusterSize))
	return err
}
