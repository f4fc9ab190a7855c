package store

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Identity is what a file system says about a file without reading it. A change
// of the content changes at least ctime, which no program can set back.
type Identity struct {
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime_ns"`
	CTime  int64  `json:"ctime_ns"`
	Inode  uint64 `json:"inode"`
	Blocks int64  `json:"blocks"` // of 512 bytes
}

// identify looks at a regular file, not through a link.
func identify(path string) (Identity, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Identity{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return identityOf(path, &st)
}

func identifyOpen(f *os.File) (Identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Identity{}, &fs.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return identityOf(f.Name(), &st)
}

func identityOf(path string, st *unix.Stat_t) (Identity, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Identity{}, fmt.Errorf("look at %s: not a regular file", path)
	}
	return Identity{
		Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(),
		Inode: st.Ino, Blocks: st.Blocks,
	}, nil
}

// longestTick is more than any kernel's tick.
const longestTick = 20 * time.Millisecond

// settle waits until a change of the file would give it another ctime than the
// one it has: older kernels stamp files with the time of their last tick, so a
// change within the same tick would not be seen. It takes a few milliseconds
// right after a change and nothing otherwise.
func (i Identity) settle() {
	deadline := time.Now().Add(longestTick)
	for i.CTime >= fileTime() && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
}
