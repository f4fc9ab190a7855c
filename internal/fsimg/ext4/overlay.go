package ext4

import (
	"encoding/binary"
	"fmt"
)

const (
	attributeMagic    = 0xEA020000
	attributeEntry    = 16 // bytes before an attribute's name
	blockHeader       = 32 // of a block of attributes
	trustedNames      = 4  // attributes that begin with "trusted."
	opaqueAttribute   = "overlay.opaque"
	redirectAttribute = "overlay.redirect"
)

// overlay reads what overlayfs has noted at a directory.
func (f *FS) overlay(n inode, e *Entry) error {
	le := binary.LittleEndian
	if extra := int64(0); f.inodeSize > goodInode+4 {
		extra = int64(le.Uint16(n.raw[goodInode:]))
		at := goodInode + extra
		if at+4 <= f.inodeSize && le.Uint32(n.raw[at:]) == attributeMagic {
			area := n.raw[at+4:]
			if err := attributes(area, area, e); err != nil {
				return fmt.Errorf("inode %d: %w", n.number, err)
			}
		}
	}
	block := uint64(le.Uint32(n.raw[0x68:])) | uint64(le.Uint16(n.raw[0x76:]))<<32
	if block == 0 {
		return nil
	}
	raw := make([]byte, f.block)
	if err := f.readBlock(block, raw); err != nil {
		return err
	}
	if le.Uint32(raw) != attributeMagic {
		return fmt.Errorf("%w: inode %d: its attributes", ErrFormat, n.number)
	}
	if err := attributes(raw[blockHeader:], raw, e); err != nil {
		return fmt.Errorf("inode %d: %w", n.number, err)
	}
	return nil
}

// attributes reads a list of extended attributes whose values lie in area.
func attributes(list, area []byte, e *Entry) error {
	le := binary.LittleEndian
	for len(list) >= attributeEntry && le.Uint32(list) != 0 {
		length, index := int(list[0]), list[1]
		from, size := int64(le.Uint16(list[2:])), int64(le.Uint32(list[8:]))
		step := (attributeEntry + length + 3) &^ 3
		if step > len(list) || from+size > int64(len(area)) {
			return fmt.Errorf("%w: an attribute lies outside", ErrFormat)
		}
		value := string(area[from : from+size])
		if index == trustedNames {
			switch string(list[attributeEntry : attributeEntry+length]) {
			case opaqueAttribute:
				e.Opaque = value == "y"
			case redirectAttribute:
				e.Redirect = value
			}
		}
		list = list[step:]
	}
	return nil
}
