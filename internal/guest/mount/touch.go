//go:build linux

package mount

import (
	"encoding/binary"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// Messages to the kernel that nobody has asked for: what it is to forget.
const (
	forgetInode = 2
	forgetEntry = 3
)

// Touch makes the kernel forget what it knows of files that others have changed,
// and tells watchers. What fails is gone meanwhile, or will be told of again.
func (t *Table) Touch(changes []wire.Change) {
	if t.relay == nil {
		return
	}
	t.relay.memory.forget()
	for _, c := range changes {
		t.relay.tell(c)
		t.touch(c)
	}
}

// touch sets a time that the host does not. A path is never followed through a
// link: nothing but a file of the mount is touched.
func (t *Table) touch(c wire.Change) {
	top, err := unix.Open(t.Folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(top)
	folder, err := unix.Openat2(top, filepath.Join(c.ID, string(c.Folder)), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return
	}
	defer unix.Close(folder)
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: wire.TouchSeconds, Nsec: wire.TouchNanos}}
	if !c.Gone {
		_ = unix.UtimesNanoAt(folder, string(c.Name), times, unix.AT_SYMLINK_NOFOLLOW)
	}
	if c.Node == 0 {
		_ = unix.UtimesNanoAt(folder, "", times, unix.AT_EMPTY_PATH)
	}
}

// tell makes the kernel forget. It waits for programs that work in the folder, so
// it must not be called by who passes their answers on.
func (r *relay) tell(c wire.Change) {
	r.closing.RLock()
	defer r.closing.RUnlock()
	if r.closed {
		return
	}
	if c.Node != 0 {
		b := notice(forgetInode, 24)
		b = binary.LittleEndian.AppendUint64(b, c.Node)
		b = append(b, make([]byte, 16)...) // all of its pages
		_, _ = unix.Write(r.device, b)
		return
	}
	b := notice(forgetEntry, 16+len(c.Name)+1)
	b = binary.LittleEndian.AppendUint64(b, c.Parent)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(c.Name)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(append(b, c.Name...), 0)
	_, _ = unix.Write(r.device, b)
	b = notice(forgetInode, 24)
	b = binary.LittleEndian.AppendUint64(b, c.Parent)
	_, _ = unix.Write(r.device, append(b, make([]byte, 16)...))
}

// notice is the header of such a message.
func notice(code uint32, body int) []byte {
	b := make([]byte, leastOut, leastOut+body)
	binary.LittleEndian.PutUint32(b, uint32(leastOut+body))
	binary.LittleEndian.PutUint32(b[4:], code)
	return b
}

// forget drops all that was foretold.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.attrs)
	clear(m.contents)
	m.entries.drop(func(entry) bool { return true })
}
