package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Attributes of a directory entry.
const (
	attrVolume = 0x08
	attrFile   = 0x20 // "archive": an ordinary file
	attrLong   = 0x0f // a part of a long name
)

// epoch is 1 January 1980, the first day FAT knows: contents, not times, make a seed.
const epoch = 1<<5 | 1

const (
	maxName      = 255 // UTF-16 units
	unitsPerPart = 13
	lastPart     = 0x40 // marks the first stored, last spelled part of a long name
)

// rootDirectory is the label's entry followed by the files', in whole sectors.
func rootDirectory(label [11]byte, files []File) ([]byte, error) {
	dir := slices.Concat(label[:], make([]byte, dirEntry-len(label)))
	dir[11] = attrVolume
	binary.LittleEndian.PutUint16(dir[24:], epoch)
	taken := map[string]bool{}
	cluster := firstData
	for i, f := range files {
		if err := checkName(f.Name); err != nil {
			return nil, err
		}
		if folded := strings.ToUpper(f.Name); taken[folded] {
			return nil, fmt.Errorf("file name %q is there twice", f.Name)
		} else {
			taken[folded] = true
		}
		short := shortName(f.Name, i+1)
		dir = append(dir, longEntries(f.Name, short)...)
		dir = append(dir, shortEntry(short, f, cluster)...)
		cluster += clustersOf(f)
	}
	if len(dir)/dirEntry >= 1<<16-sectorSize/dirEntry {
		return nil, fmt.Errorf("%d files are too many", len(files))
	}
	return append(dir, make([]byte, sectors(len(dir))*sectorSize-len(dir))...), nil
}

// checkName refuses what FAT's long names cannot hold (section 7.1), and names
// that readers change: those that end in a dot or a space.
func checkName(name string) error {
	if !utf8.ValidString(name) {
		return fmt.Errorf("file name %q is not UTF-8", name)
	}
	units := len(utf16.Encode([]rune(name)))
	if units < 1 || units > maxName {
		return fmt.Errorf("file name %q does not have 1 to %d characters", name, maxName)
	}
	if strings.ContainsAny(name, "\"*/:<>?\\|\x7f") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("file name %q has a character that FAT does not know", name)
	}
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		return errors.New("a file name ends in a dot or a space")
	}
	return nil
}

// shortName makes the 8.3 alias that precedes long names: the number makes it
// unique, the letters help a reader that knows only 8.3 names.
func shortName(name string, number int) [11]byte {
	var short [11]byte
	copy(short[:], "           ")
	tail := fmt.Sprintf("~%d", number)
	n := 0
	for _, c := range []byte(strings.ToUpper(name)) {
		if n < 8-len(tail) && shortChar(c) {
			short[n] = c
			n++
		}
	}
	copy(short[n:8], tail)
	return short
}

func shortChar(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// longEntries are the parts of a long name, the last part first (section 7).
func longEntries(name string, short [11]byte) []byte {
	units := utf16.Encode([]rune(name))
	count := (len(units) + unitsPerPart - 1) / unitsPerPart
	if len(units) < count*unitsPerPart {
		units = append(units, 0)
	}
	for len(units) < count*unitsPerPart {
		units = append(units, 0xffff)
	}
	var out []byte
	for part := count; part >= 1; part-- {
		e := longEntry(units[(part-1)*unitsPerPart:part*unitsPerPart], checksum(short))
		e[0] = byte(part)
		if part == count {
			e[0] |= lastPart
		}
		out = append(out, e...)
	}
	return out
}

func longEntry(units []uint16, sum byte) []byte {
	e := make([]byte, dirEntry)
	e[11] = attrLong
	e[13] = sum
	places := []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}
	for i, at := range places {
		binary.LittleEndian.PutUint16(e[at:], units[i])
	}
	return e
}

// checksum ties the parts of a long name to their short one (section 7.2).
func checksum(short [11]byte) byte {
	var sum byte
	for _, c := range short {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}

func shortEntry(short [11]byte, f File, cluster int) []byte {
	e := make([]byte, dirEntry)
	copy(e, short[:])
	e[11] = attrFile
	le := binary.LittleEndian
	for _, at := range []int{16, 18, 24} { // created, accessed, written
		le.PutUint16(e[at:], epoch)
	}
	if len(f.Data) > 0 { // an empty file has no cluster
		le.PutUint16(e[26:], uint16(cluster))
	}
	le.PutUint32(e[28:], uint32(len(f.Data)))
	return e
}
