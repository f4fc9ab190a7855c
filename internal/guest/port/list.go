//go:build linux

package port

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/wire"
)

// listen is how the kernel's list names the state of a socket that listens.
const listen = "0A"

// socket is one that listens.
type socket struct {
	address netip.AddrPort
	inode   string
}

// list gives what listens, each port and address once, with its program.
func (s *Server) list() ([]wire.Listening, error) {
	var sockets []socket
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		f, err := os.Open(filepath.Join(s.proc, name))
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		found, err := readSockets(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		sockets = append(sockets, found...)
	}
	owners := s.owners(sockets)
	var all []wire.Listening
	for _, one := range sockets {
		all = append(all, wire.Listening{
			Port: int(one.address.Port()), Address: one.address.Addr().Unmap().String(), Program: owners[one.inode],
		})
	}
	slices.SortFunc(all, func(a, b wire.Listening) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Address, b.Address))
	})
	all = slices.CompactFunc(all, func(a, b wire.Listening) bool { return a.Port == b.Port && a.Address == b.Address })
	return all[:min(len(all), wire.MaxListening)], nil
}

// readSockets reads /proc/net/tcp: one line of fields for each socket.
func readSockets(in io.Reader) ([]socket, error) {
	var found []socket
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		address, err := parseAddress(fields[1])
		if err != nil {
			return nil, err
		}
		found = append(found, socket{address, fields[9]})
	}
	return found, lines.Err()
}

// parseAddress reads the kernel's form: words of 4 bytes in the processor's order,
// which is little-endian on all of ours, then the port.
func parseAddress(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err == nil && len(raw) != 4 && len(raw) != 16 {
		err = fmt.Errorf("an address of %d bytes", len(raw))
	}
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	address, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(address, uint16(n)), nil
}

// owners gives the program's name for each inode that is held open by one.
func (s *Server) owners(sockets []socket) map[string]string {
	wanted := map[string]string{} // a link's text to the inode
	for _, one := range sockets {
		wanted["socket:["+one.inode+"]"] = one.inode
	}
	owners := map[string]string{}
	if len(wanted) == 0 {
		return owners
	}
	folders, _ := filepath.Glob(filepath.Join(s.proc, "[0-9]*"))
	for _, folder := range folders {
		fds, _ := os.ReadDir(filepath.Join(folder, "fd"))
		for _, fd := range fds {
			target, _ := os.Readlink(filepath.Join(folder, "fd", fd.Name()))
			if inode := wanted[target]; inode != "" && owners[inode] == "" {
				name, _ := os.ReadFile(filepath.Join(folder, "comm"))
				owners[inode] = strings.TrimSpace(string(name))
			}
		}
	}
	return owners
}
