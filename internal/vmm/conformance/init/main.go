//go:build linux

// Command init is the only program of a conformance test machine: PID 1 that
// loads the kernel's modules, opens the link port and serves the suite's
// commands. It keeps nothing; an error is written to the console and ends the
// machine.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/guest/network"
	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
	"github.com/smolvm/smolvm/internal/wire"
)

// compressed is MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel
// decodes the file itself.
const compressed = 4

func main() {
	fmt.Println("conformance guest: up")
	how := guest.PowerOff
	if err := run(&how); err != nil {
		fmt.Println("conformance guest:", err)
	}
	unix.Sync()
	if token := option(wire.OptVsock); token != "" { // no switch: a reset, and a word before
		tell(token, how)
		how = guest.Reboot
	}
	if how == guest.Reboot {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run(how *guest.Op) error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	m, err := newMachine()
	if err != nil {
		return err
	}
	for {
		port, err := openPort()
		if err != nil {
			return err
		}
		*how, err = guest.Serve(port, m)
		_ = port.Close()
		if err != nil {
			fmt.Println("conformance guest:", err)
			continue // the machine was kept, or restored elsewhere
		}
		if *how != guest.Reopen {
			return nil
		}
	}
}

func loadModules() error {
	list, err := os.ReadFile(wire.ModuleList)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(filepath.Join(wire.ModuleFolder, name))
		if err != nil {
			return fmt.Errorf("load a module: %w", err)
		}
		flags := 0
		if !strings.HasSuffix(name, ".ko") {
			flags = compressed
		}
		err = unix.FinitModule(int(f.Fd()), "", flags)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return err
}

// option is the value of an option of the kernel's command line.
func option(name string) string {
	line, _ := os.ReadFile("/proc/cmdline")
	for word := range strings.FieldsSeq(string(line)) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

func tell(token string, how guest.Op) {
	purpose := wire.ForPowerOff
	if how == guest.Reboot {
		purpose = wire.ForReboot
	}
	conn, err := link.DialVsock(context.Background(), token, purpose, rand.Reader)
	if err != nil {
		fmt.Println("conformance guest:", err)
		return
	}
	_ = conn.Close()
}

func openPort() (io.ReadWriteCloser, error) {
	if token := option(wire.OptVsock); token != "" {
		return link.DialVsock(context.Background(), token, wire.ForLink, rand.Reader)
	}
	return link.AwaitPort(context.Background(), wire.PortName)
}

// machine is this virtual machine as the suite asks about it.
type machine struct {
	bootID string
	disks  map[string]string // device name, such as vda, by role
	order  []string
	blocks [][]byte // see Keep
}

func newMachine() (*machine, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	m := &machine{bootID: strings.TrimSpace(string(id)), disks: map[string]string{}}
	serials, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return nil, err
	}
	slices.Sort(serials)
	roles := strings.Split(option(wire.OptDrives), ",")
	for i, s := range serials {
		role, err := os.ReadFile(s)
		if err != nil {
			return nil, err
		}
		if len(roles) == len(serials) && !slices.Contains(roles, strings.TrimSpace(string(role))) {
			role = []byte(roles[i]) // a VMM with serial numbers of its own: by place
		}
		m.disks[strings.TrimSpace(string(role))] = filepath.Base(filepath.Dir(s))
		m.order = append(m.order, strings.TrimSpace(string(role)))
	}
	return m, nil
}

// Look describes the machine.
func (m *machine) Look() (guest.Info, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return guest.Info{}, err
	}
	line, err := os.ReadFile("/proc/cmdline")
	info := guest.Info{
		BootID: m.bootID, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(),
		MemoryMiB:   int64(uint64(si.Totalram) * uint64(si.Unit) >> 20),
		CommandLine: strings.TrimSpace(string(line)), UptimeMS: uptimeMS(), SystemMS: busyMS(),
	}
	ids, _ := filepath.Glob("/sys/bus/virtio/devices/*/device")
	for _, f := range ids {
		switch number(f) {
		case 1: // VIRTIO_ID_NET
			info.Networks++
		case 4: // VIRTIO_ID_RNG
			info.Random = true
		}
	}
	for _, role := range m.order {
		dir := "/sys/block/" + m.disks[role]
		info.Drives = append(info.Drives, guest.Drive{
			ID: role, Bytes: number(dir+"/size") * 512, ReadOnly: number(dir+"/ro") == 1,
		})
	}
	return info, err
}

// ReadAt reads from a drive, past the page cache of earlier reads.
func (m *machine) ReadAt(drive string, p []byte, offset int64) error {
	return m.use(drive, os.O_RDONLY, func(f *os.File) error {
		_, err := f.ReadAt(p, offset)
		return err
	})
}

// WriteAt writes to a drive and flushes it. A drive that claims to be writable
// but refuses is an error of the flush.
func (m *machine) WriteAt(drive string, p []byte, offset int64) error {
	return m.use(drive, os.O_RDWR, func(f *os.File) error {
		if _, err := f.WriteAt(p, offset); err != nil {
			return err
		}
		return f.Sync()
	})
}

func (m *machine) use(drive string, flag int, do func(*os.File) error) error {
	dev, ok := m.disks[drive]
	if !ok {
		return fmt.Errorf("no drive %s among %q", drive, m.order)
	}
	f, err := os.OpenFile("/dev/"+dev, flag, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

// Dial makes a connection over the network card, which is set up first.
func (m *machine) Dial(address string) (io.ReadWriteCloser, error) {
	err := network.Configure(wire.NetworkConfig{Version: 2, Ethernets: map[string]wire.Ethernet{"uplink": {
		Match: wire.Match{Name: "e*"}, MTU: wire.MTU, Addresses: []string{wire.Guest4.String()},
		Routes: []wire.Route{{To: "default", Via: wire.Gateway4.Addr().String()}},
	}}})
	if err != nil {
		return nil, err
	}
	return net.DialTimeout("tcp", address, dialTime)
}

// dialTime is patience with a network that drops what it is sent.
const dialTime = 2 * time.Minute

// Keep keeps a block in memory.
func (m *machine) Keep(block []byte) error {
	m.blocks = append(m.blocks, block)
	return nil
}

// Kept is all that was kept.
func (m *machine) Kept() []byte { return bytes.Join(m.blocks, nil) }

// Say writes to the console.
func (m *machine) Say(text string) error {
	_, err := os.Stdout.WriteString(text)
	return err
}

func number(file string) int64 {
	text, _ := os.ReadFile(file)
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 0, 64)
	return n
}

func uptimeMS() int64 {
	text, _ := os.ReadFile("/proc/uptime")
	var s float64
	_, _ = fmt.Sscan(string(text), &s)
	return int64(s * 1000)
}

// busyMS reads how long the processors have not been idle, from /proc/stat in
// hundredths of a second.
func busyMS() int64 {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64
	for i, f := range strings.Fields(line) {
		if i != 0 && i != 4 && i != 5 { // the label, idle, iowait
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
	}
	return ticks * 10
}
