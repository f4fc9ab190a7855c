//go:build linux

// Package fat reads the files at the root of a small FAT volume. The kernel's own
// driver would come in four modules and a mount, a tenth of a second of an
// emulated boot, for a few kilobytes that are read once.
//
// Input is the whole volume in memory; nothing in it is trusted. FAT12 and FAT16
// are understood, with long names; directories are passed over.
package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

// MaxVolume bounds a volume in bytes: FAT16 with the smallest clusters is not larger.
const MaxVolume = 32 << 20

// maxFiles bounds the entries of a root directory.
const maxFiles = 4096

// errVolume says that the volume is no FAT file system or a damaged one.
var errVolume = errors.New("bad FAT volume")

var little = binary.LittleEndian

// volume is the layout that the boot sector tells; offsets and sizes in bytes.
type volume struct {
	image    []byte
	table    []byte
	root     []byte
	data     int
	cluster  int
	clusters int
	fat16    bool
}

// IsVolume reports whether a drive that begins with head may hold a FAT volume.
func IsVolume(head []byte) bool {
	return len(head) >= 512 && head[510] == 0x55 && head[511] == 0xaa
}

// Read returns the files of the volume's root directory by name.
func Read(image []byte) (map[string][]byte, error) {
	v, err := open(image)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	var long []uint16 // the long name read so far
	total := 0
	for at := 0; at+entrySize <= len(v.root); at += entrySize {
		entry := v.root[at : at+entrySize]
		if entry[0] == 0 {
			break
		}
		if entry[11] == attrLongName {
			long = addLong(long, entry)
			continue
		}
		name := entryName(long, entry)
		long = nil
		if entry[0] == entryFree || entry[11]&(attrVolume|attrDirectory) != 0 {
			continue
		}
		// Files that share clusters must not add up to more than there is.
		if total += int(little.Uint32(entry[28:])); total > len(image) {
			return nil, fmt.Errorf("file %q: %w: larger than the volume", name, errVolume)
		}
		if files[name], err = v.content(int(little.Uint16(entry[26:])), int(little.Uint32(entry[28:]))); err != nil {
			return nil, fmt.Errorf("file %q: %w", name, err)
		}
	}
	return files, nil
}

// open reads the boot sector: the BIOS parameter block of Microsoft's FAT
// specification, version 1.03.
func open(image []byte) (*volume, error) {
	if !IsVolume(image) || len(image) > MaxVolume {
		return nil, errVolume
	}
	sector := int(little.Uint16(image[11:]))
	if sector != 512 && sector != 1024 && sector != 2048 && sector != 4096 {
		return nil, fmt.Errorf("%w: sectors of %d bytes", errVolume, sector)
	}
	tables, entries := int(image[16]), int(little.Uint16(image[17:]))
	tableSize := int(little.Uint16(image[22:])) * sector
	tableAt := int(little.Uint16(image[14:])) * sector
	rootAt := tableAt + tables*tableSize
	rootSize := (entries*entrySize + sector - 1) / sector * sector
	v := &volume{image: image, cluster: int(image[13]) * sector, data: rootAt + rootSize}
	if tableSize == 0 || tables == 0 || entries == 0 || entries > maxFiles || v.cluster == 0 || v.data > len(image) {
		return nil, errVolume
	}
	v.table = image[tableAt : tableAt+tableSize]
	v.root = image[rootAt : rootAt+entries*entrySize]
	total := int(little.Uint16(image[19:]))
	if total == 0 {
		total = int(little.Uint32(image[32:]))
	}
	v.clusters = (min(total*sector, len(image)) - v.data) / v.cluster
	// The number of clusters alone decides which FAT it is; 4085 is the border.
	if v.fat16 = v.clusters >= 4085; v.clusters < 1 || v.clusters > 65524 {
		return nil, fmt.Errorf("%w: %d clusters", errVolume, v.clusters)
	}
	return v, nil
}

// content follows a chain of clusters. The size bounds its length, so a chain
// that runs in a circle ends as well.
func (v *volume) content(cluster, size int) ([]byte, error) {
	content := make([]byte, 0, size)
	for len(content) < size {
		if cluster < 2 || cluster >= v.clusters+2 {
			return nil, fmt.Errorf("%w: chain ends after %d of %d bytes", errVolume, len(content), size)
		}
		at := v.data + (cluster-2)*v.cluster
		content = append(content, v.image[at:at+min(v.cluster, size-len(content))]...)
		cluster = v.next(cluster)
	}
	return content, nil
}

// next is the cluster that follows; one outside of the volume at the end.
func (v *volume) next(cluster int) int {
	at := cluster * 2
	if !v.fat16 {
		at = cluster + cluster/2
	}
	if at+2 > len(v.table) {
		return 0
	}
	value := int(little.Uint16(v.table[at:]))
	switch {
	case v.fat16:
		return value
	case cluster%2 == 1:
		return value >> 4
	}
	return value & 0xfff
}

// A directory entry and its attributes.
const (
	entrySize     = 32
	entryFree     = 0xe5
	attrVolume    = 0x08
	attrDirectory = 0x10
	attrLongName  = 0x0f
)

// addLong puts one piece of a long name before those that were read: the last
// piece comes first. A piece marked as last begins a new name.
func addLong(long []uint16, entry []byte) []uint16 {
	if entry[0]&0x40 != 0 {
		long = nil
	}
	var piece []uint16
	for _, span := range [][]byte{entry[1:11], entry[14:26], entry[28:32]} {
		for i := 0; i < len(span); i += 2 {
			unit := little.Uint16(span[i:])
			if unit == 0 || unit == 0xffff {
				return append(piece, long...)
			}
			piece = append(piece, unit)
		}
	}
	const maxName = 255
	if len(piece)+len(long) > maxName {
		return nil
	}
	return append(piece, long...)
}

// entryName is the long name where there is one, and else the short one, in
// lower case as Linux shows it.
func entryName(long []uint16, entry []byte) string {
	if len(long) > 0 {
		return string(utf16.Decode(long))
	}
	base, suffix := strings.TrimRight(string(entry[:8]), " "), strings.TrimRight(string(entry[8:11]), " ")
	if suffix != "" {
		base += "." + suffix
	}
	return strings.ToLower(base)
}
