package host

import (
	"bufio"
	"encoding/hex"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// PortOwner is who listens on a TCP port of this computer, as far as this user is
// let see it.
type PortOwner struct {
	UID  int      // of the user; -1: unknown
	Pid  int      // 0: unknown, as for programs of other users
	Args []string // its command line
}

// OwnerOfPort finds the listener that keeps an address from being listened on.
// Only Linux tells.
func OwnerOfPort(address netip.AddrPort) (PortOwner, bool) {
	return ownerOfPort(os.DirFS("/proc"), address)
}

func ownerOfPort(proc fs.FS, address netip.AddrPort) (PortOwner, bool) {
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		f, err := proc.Open(name)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			uid, inode, ok := listener(lines.Text(), address)
			if !ok {
				continue
			}
			_ = f.Close()
			owner := PortOwner{UID: uid}
			owner.Pid, owner.Args = holder(proc, inode)
			return owner, true
		}
		_ = f.Close()
	}
	return PortOwner{}, false
}

// listener reads one line of the kernel's list of sockets.
func listener(line string, address netip.AddrPort) (uid int, inode string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != "0A" { // it does not listen
		return 0, "", false
	}
	host, port, _ := strings.Cut(fields[1], ":")
	raw, err := hex.DecodeString(host)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 || uint16(n) != address.Port() {
		return 0, "", false
	}
	for i := 0; i < len(raw); i += 4 { // words in the processor's order, little-endian
		slices.Reverse(raw[i : i+4])
	}
	there, ok := netip.AddrFromSlice(raw)
	there = there.Unmap()
	// The wildcard of IPv6 takes the port of IPv4, too, unless its program says otherwise.
	wild := there.IsUnspecified() && (there.Is6() || address.Addr().Is4())
	if !ok || there != address.Addr() && !wild && !address.Addr().IsUnspecified() {
		return 0, "", false
	}
	if uid, err = strconv.Atoi(fields[7]); err != nil {
		uid = -1
	}
	return uid, fields[9], true
}

// holder is the process that has a socket open, where this user may know.
func holder(proc fs.FS, inode string) (pid int, args []string) {
	folders, _ := fs.Glob(proc, "[0-9]*")
	for _, folder := range folders {
		fds, _ := fs.ReadDir(proc, folder+"/fd")
		for _, fd := range fds {
			target, err := fs.ReadLink(proc, folder+"/fd/"+fd.Name())
			if err != nil || target != "socket:["+inode+"]" {
				continue
			}
			raw, _ := fs.ReadFile(proc, folder+"/cmdline")
			pid, _ = strconv.Atoi(folder)
			return pid, strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		}
	}
	return 0, nil
}
