// Package fattest reads FAT12 and FAT16 volumes in tests. It is written from the
// specification alone and shares no code and no constants with package fat, so
// that what one gets wrong the other notices. It trusts that the volume fits in
// memory and keeps nothing on disk.
package fattest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

// File is one file of a volume's root directory.
type File struct {
	Name string
	Data []byte
}

// Read reads a whole volume: its label and the files in their order. It fails
// on anything that a strict reader would stumble over.
func Read(image []byte) (label string, files []File, err error) {
	le := binary.LittleEndian
	if len(image) < 512 || image[510] != 0x55 || image[511] != 0xaa || le.Uint16(image[11:]) != 512 {
		return "", nil, errors.New("no boot sector")
	}
	v := reader{image: image, perCluster: int(image[13]) * 512}
	fats, fatSize := int(image[16]), int(le.Uint16(image[22:]))*512
	entries, total := int(le.Uint16(image[17:])), int(le.Uint16(image[19:]))
	if total == 0 {
		total = int(le.Uint32(image[32:]))
	}
	if total*512 != len(image) {
		return "", nil, fmt.Errorf("%d sectors in %d bytes", total, len(image))
	}
	start := int(le.Uint16(image[14:])) * 512
	v.table = image[start : start+fatSize]
	for i := 1; i < fats; i++ {
		if string(image[start+i*fatSize:start+(i+1)*fatSize]) != string(v.table) {
			return "", nil, errors.New("the tables differ")
		}
	}
	root := image[start+fats*fatSize:][:entries*32]
	v.data = image[start+fats*fatSize+entries*32:]
	clusters := len(v.data) / v.perCluster
	v.wide = clusters >= 4085
	if v.next(0)&0xff != 0xf8 {
		return "", nil, errors.New("the first entry does not repeat the media descriptor")
	}
	files, label, err = v.directory(root)
	if boot := strings.TrimRight(string(image[43:54]), " "); err == nil && boot != label {
		err = fmt.Errorf("label %q in the boot sector, %q in the root", boot, label)
	}
	return label, files, err
}

type reader struct {
	image, table, data []byte
	perCluster         int
	wide               bool
}

func (v reader) next(cluster int) int {
	if v.wide {
		return int(binary.LittleEndian.Uint16(v.table[cluster*2:]))
	}
	pair := int(binary.LittleEndian.Uint16(v.table[cluster+cluster/2:]))
	return pair >> (4 * (cluster & 1)) & 0xfff
}

func (v reader) directory(root []byte) (files []File, label string, err error) {
	var long []uint16
	var sum byte
	for ; len(root) >= 32 && root[0] != 0; root = root[32:] {
		e := root[:32]
		switch e[11] & 0x3f {
		case 0x0f:
			if e[0]&0x40 != 0 {
				long = nil
			}
			sum = e[13]
			long = append(append(append(units(e[1:11]), units(e[14:26])...), units(e[28:32])...), long...)
			continue
		case 0x08:
			label = strings.TrimRight(string(e[:11]), " ")
			continue
		}
		var got byte
		for _, c := range e[:11] {
			got = (got&1)<<7 + got>>1 + c
		}
		if got != sum {
			return nil, "", fmt.Errorf("checksum of %q is wrong", e[:11])
		}
		f := File{Name: spell(long)}
		if f.Data, err = v.content(e); err != nil {
			return nil, "", fmt.Errorf("%q: %w", f.Name, err)
		}
		files = append(files, f)
	}
	return files, label, nil
}

func (v reader) content(e []byte) ([]byte, error) {
	size, cluster := int(binary.LittleEndian.Uint32(e[28:])), int(binary.LittleEndian.Uint16(e[26:]))
	if size == 0 && cluster != 0 {
		return nil, errors.New("an empty file has a cluster")
	}
	end := 0xff8
	if v.wide {
		end = 0xfff8
	}
	data := []byte{}
	for cluster != 0 && cluster < end {
		if cluster < 2 || len(data) >= size {
			return nil, fmt.Errorf("cluster %d at %d of %d bytes", cluster, len(data), size)
		}
		data = append(data, v.data[(cluster-2)*v.perCluster:(cluster-1)*v.perCluster]...)
		cluster = v.next(cluster)
	}
	if len(data) < size {
		return nil, fmt.Errorf("%d of %d bytes", len(data), size)
	}
	return data[:size], nil
}

func units(b []byte) (out []uint16) {
	for ; len(b) > 0; b = b[2:] {
		out = append(out, binary.LittleEndian.Uint16(b))
	}
	return out
}

func spell(long []uint16) string {
	for i, u := range long {
		if u == 0 {
			long = long[:i]
			break
		}
	}
	return string(utf16.Decode(long))
}
