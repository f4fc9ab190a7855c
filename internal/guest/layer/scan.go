//go:build linux

package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// blockSize is that of the layers' file systems.
const blockSize = 4096

// bindingXattrs tie an overlay's upper files to one certain lower layer, one
// index or one mount. A tree that becomes a layer of its own must lose them.
// What describes the tree itself stays: whiteout, opaque, redirect, metacopy.
var bindingXattrs = []string{
	"trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.nlink",
	"trusted.overlay.uuid", "trusted.overlay.upper", "trusted.overlay.index",
}

// usage is what a tree needs as a file system.
type usage struct {
	inodes int64
	blocks int64 // of data, directories, extent trees and attributes
	digest [sha256.Size]byte
}

// normalize makes the tree independent of when and over what it was made, and
// measures it: it strips the attributes that bind it, and clamps times to the
// epoch. The digest covers all names and all metadata that a layer keeps.
func normalize(dir string, epoch time.Time) (usage, error) {
	u := usage{}
	sum := sha256.New()
	links := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := stripBinding(path); err != nil {
			return err
		}
		n, st, err := fromFile(path)
		if err != nil {
			return err
		}
		if n.path, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		if err := clampTimes(path, &n, epoch); err != nil {
			return err
		}
		record(sum, n, st.Size)
		if st.Nlink > 1 && !isDir(n) && links[st.Ino] {
			return nil
		}
		links[st.Ino] = true
		u.inodes++
		blocks, err := blocksOf(path, n, st)
		u.blocks += blocks
		return err
	})
	sum.Sum(u.digest[:0])
	if err != nil {
		return u, fmt.Errorf("scan layer: %w", err)
	}
	return u, nil
}

func isDir(n node) bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }

func stripBinding(path string) error {
	names, err := listXattrs(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.Contains(bindingXattrs, name) {
			if err := unix.Lremovexattr(path, name); err != nil {
				return fmt.Errorf("strip %s of %s: %w", name, path, err)
			}
		}
	}
	return nil
}

// clampTimes sets access and change of content to one whole second no later
// than the epoch. Access times would otherwise tell what was read.
func clampTimes(path string, n *node, epoch time.Time) error {
	n.mtime = n.mtime.Truncate(time.Second)
	if n.mtime.After(epoch) {
		n.mtime = epoch
	}
	at := unix.NsecToTimespec(n.mtime.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times of %s: %w", path, err)
	}
	return nil
}

func record(sum hash.Hash, n node, size int64) {
	if isDir(n) {
		size = 0 // depends on the file system it happens to be on
	}
	fmt.Fprintf(sum, "%q %o %d:%d %d %d %d %q", n.path, n.mode, n.uid, n.gid, size, n.mtime.Unix(), n.rdev, n.target)
	for _, name := range slices.Sorted(maps.Keys(n.xattrs)) {
		fmt.Fprintf(sum, " %s=%q", name, n.xattrs[name])
	}
	fmt.Fprintln(sum)
}

// Room that ext4 has inside an inode of 256 bytes.
const (
	inlineLink  = 60
	inlineXattr = 80
)

// blocksOf is an upper bound of the blocks one file takes outside its inode.
func blocksOf(path string, n node, st unix.Stat_t) (int64, error) {
	blocks := int64(0)
	for name, value := range n.xattrs {
		if len(name)+len(value)+20 > inlineXattr {
			blocks = 1 + int64(len(value))/blockSize
		}
	}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := dataBlocks(path, st)
		// Four extents fit in the inode; a file in many pieces needs a tree.
		return blocks + data + data/1024, err
	case unix.S_IFDIR:
		entries, err := os.ReadDir(path)
		bytes := int64(64)
		for _, e := range entries {
			bytes += int64(len(e.Name())+3)&^3 + 8
		}
		// The last entry of a block cannot always be split: a tenth more.
		return blocks + 1 + bytes*11/10/blockSize, err
	case unix.S_IFLNK:
		if len(n.target) >= inlineLink {
			blocks++
		}
	}
	return blocks, nil
}

// dataBlocks counts the blocks of a file's data, leaving out its holes.
func dataBlocks(path string, st unix.Stat_t) (int64, error) {
	if st.Blocks*512 >= st.Size {
		return (st.Size + blockSize - 1) / blockSize, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	blocks, offset := int64(0), int64(0)
	for {
		start, err := unix.Seek(int(file.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return blocks, nil
		}
		if err != nil {
			return 0, fmt.Errorf("find data of %s: %w", path, err)
		}
		if offset, err = unix.Seek(int(file.Fd()), start, unix.SEEK_HOLE); err != nil {
			return 0, fmt.Errorf("find hole of %s: %w", path, err)
		}
		blocks += (offset+blockSize-1)/blockSize - start/blockSize
	}
}

// uuid derives a version 8 (custom) UUID from the digest and a purpose.
func (u usage) uuid(purpose string) string {
	sum := sha256.Sum256(append([]byte(purpose+"\x00"), u.digest[:]...))
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
