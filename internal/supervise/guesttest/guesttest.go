// Package guesttest is a guest for tests of what stands above the VMM driver:
// it speaks the guest link, serves SSH with the sandbox's keys and runs a few
// made-up programs. Words on the kernel command line make it misbehave, so that
// a supervisor in a process of its own can be given a bad guest too. It is
// imported by tests only; like a real guest it keeps what it keeps on its
// scratch drive, which need not hold a file system.
package guesttest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/internal/guestlink/linktest"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/sshx/sshtest"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/fake"
	"github.com/smolvm/smolvm/internal/wire"
)

// Words of the kernel command line.
const (
	Hang     = "guest.hang"     // prints terminal tricks and never opens its link
	Die      = "guest.die"      // the VMM dies before the guest is ready
	Fail     = "guest.fail"     // says that it cannot come up
	WrongKey = "guest.wrongkey" // shows another host key
	Stubborn = "guest.stubborn" // does not power off when asked
)

// Driver gives machines with this guest.
func Driver(record.Record) (vmm.Driver, error) { return &fake.Driver{Guest: Run}, nil }

// Run is the guest.
func Run(g *fake.Guest) error {
	has := func(word string) bool { return strings.Contains(g.Spec.CommandLine, word) }
	switch {
	case has(Hang):
		g.Console("one\n\x1b[31mtwo\x1b[0m \x1b]0;title\a\x00three\n")
		<-g.Done()
		return nil
	case has(Die):
		g.Console("going down\n")
		return errors.New("QEMU ended: signal: killed")
	}
	b := &boot{guest: g, stubborn: has(Stubborn)}
	b.held.Store(g.Memory() != nil) // it was restored
	if err := b.keys(has(WrongKey)); err != nil {
		return err
	}
	for {
		again, err := b.run(has(Fail))
		if err != nil || !again {
			return err
		}
	}
}

// boot is the guest between two power cycles.
type boot struct {
	guest    *fake.Guest
	stubborn bool
	id       wire.Identity

	link    *linktest.Guest
	end     chan string // "poweroff", "reboot", "crash", "starve"
	held    atomic.Bool // nobody gets in
	hangups hangups
	clock   atomic.Int64 // as the host said last
}

// drive is the path of a drive by its role.
func (b *boot) drive(role string) string {
	for _, d := range b.guest.Spec.Drives {
		if d.ID == role {
			return d.Path
		}
	}
	return ""
}

// keys takes the keys from where the seed's drive lies: they are the same.
func (b *boot) keys(wrong bool) error {
	if memory := b.guest.Memory(); memory != nil { // it was restored: it has another sandbox's
		return json.Unmarshal(memory, &b.id)
	}
	dir := filepath.Join(filepath.Dir(b.drive(wire.SeedRole)), "ssh")
	name := "host_ed25519"
	if wrong {
		name = "client_ed25519"
	}
	host, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	client, err := os.ReadFile(filepath.Join(dir, "client_ed25519.pub"))
	b.id = wire.Identity{HostKey: string(host), AuthorizedKeys: []string{string(client)}}
	return errors.Join(err, b.remember())
}

// remember keeps in the machine's memory who it is.
func (b *boot) remember() error {
	memory, err := json.Marshal(b.id)
	b.guest.Remember(memory)
	return err
}

// renew makes it another sandbox, where it shall be one, and lets people in.
func (b *boot) renew(id *wire.Identity) error {
	if id != nil {
		b.id = *id
	}
	b.held.Store(false)
	return b.remember()
}

// run is one boot.
func (b *boot) run(fails bool) (again bool, err error) {
	b.guest.Console("booting\n")
	conn, err := b.guest.Open()
	if err != nil {
		return false, nil // switched off
	}
	if b.link, err = linktest.Open(conn, linktest.Nonce); err != nil {
		return false, nil
	}
	b.end = make(chan string, 1)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer b.link.Close()
	if err := b.begin(fails); err != nil {
		return false, nil //nolint:nilerr // the host is gone
	}
	serving.Go(b.receive)
	serving.Go(b.accept)
	select {
	case <-b.guest.Done():
		return false, nil
	case how := <-b.end:
		if how == "crash" {
			return false, errors.New("QEMU ended: signal: killed")
		}
		if how == "starve" {
			return false, b.devour()
		}
		if how == "panic" || how == "cut off" {
			return true, nil // without a word
		}
		_ = b.link.Send(wire.Message{Type: wire.Goodbye, Text: how})
		return how == "reboot", nil
	}
}

// devour runs a program in the machine's control group that keeps what it reads. Where
// there is no group it would take all of this computer's memory, and is not run.
func (b *boot) devour() error {
	if b.guest.Spec.Group == nil {
		return errors.New("there is no control group to starve in")
	}
	cmd := exec.Command("tail", "/dev/zero")
	process.InGroup(cmd, b.guest.Spec.Group)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("QEMU ended: %w", err)
	}
	return nil
}

// begin says what the guest says first.
func (b *boot) begin(fails bool) error {
	switch {
	case fails:
		return b.link.Send(wire.Message{Type: wire.Failed, Text: "no \x1b[1mscratch\x1b[0m"})
	case strings.Contains(b.guest.Spec.CommandLine, wire.OptMode+"="+string(wire.ModePack)):
		return b.pack()
	}
	return b.link.Send(wire.Message{Type: wire.Ready, Boot: &wire.BootReport{Kernel: "6.12", UptimeMS: 5}})
}

// pack writes a layer of 3000 bytes.
func (b *boot) pack() error {
	const layer = "packed"
	f, err := os.OpenFile(b.drive(wire.ExtraRole), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Repeat(layer, 500))
	err = errors.Join(err, f.Close())
	for _, m := range []wire.Message{{Type: wire.Working, Text: "writing"}, {Type: wire.Packed, Bytes: 500 * int64(len(layer))}} {
		err = errors.Join(err, b.link.Send(m))
	}
	time.Sleep(unmounting)
	b.end <- "poweroff"
	return err
}

// unmounting is what a real guest does before it powers off takes at least.
const unmounting = 50 * time.Millisecond

func (b *boot) receive() {
	var given wire.Credentials
	for {
		m, err := b.link.Receive()
		if err != nil {
			b.stop("cut off") // it was kept, or switched off
			return
		}
		switch {
		case m.Type == wire.Hold:
			b.held.Store(true)
			_ = b.link.Send(wire.Message{Type: wire.Held})
		case m.Type == wire.Renew:
			_ = errors.Join(b.renew(m.Identity), b.link.Send(wire.Message{Type: wire.Renewed}))
		case m.Type == wire.PowerOff && !b.stubborn:
			b.stop("poweroff")
		case m.Type == wire.Clock:
			b.clock.Store(m.UnixNano)
		case m.Type == wire.GiveCredentials && m.Credentials != nil:
			given = *m.Credentials
		case m.Type == wire.AskLogins:
			_ = b.link.Send(wire.Message{Type: wire.Logins, Credentials: renewed(given)})
		}
	}
}

// renewed are login files that the agent wrote anew: "old" in them is "new".
func renewed(given wire.Credentials) *wire.Credentials {
	after := &wire.Credentials{}
	for _, l := range given.Logins {
		l.Content = bytes.ReplaceAll(l.Content, []byte("old"), []byte("new"))
		after.Logins = append(after.Logins, l)
	}
	return after
}

func (b *boot) stop(how string) {
	select {
	case b.end <- how:
	default:
	}
}

func (b *boot) accept() {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		stream, kind, err := b.link.Accept()
		if err != nil {
			return
		}
		if b.held.Load() {
			_ = stream.Close()
			continue
		}
		switch kind {
		case wire.StreamSSH:
			serving.Go(func() { b.serve(stream) })
		case wire.StreamPort:
			serving.Go(func() { b.port(stream) })
		default:
			_ = stream.Close()
		}
	}
}

func (b *boot) serve(stream net.Conn) {
	defer stream.Close()
	_ = sshtest.Server{HostKey: b.id.HostKey, Authorized: b.id.AuthorizedKeys[0], Run: b.program}.Serve(stream)
}

// port answers a port stream: port 7 echoes, on another nobody listens.
func (b *boot) port(stream net.Conn) {
	defer stream.Close()
	in := bufio.NewReader(stream)
	var r wire.PortRequest
	line, err := in.ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &r) != nil {
		return
	}
	switch {
	case r.Op == wire.PortList:
		_, _ = io.WriteString(stream, `{"listening":[{"port":7,"address":"127.0.0.1","program":"\u001b[31mecho"},{"port":99999}]}`+"\n")
	case r.Port != 7:
		_, _ = io.WriteString(stream, `{"error":"connection refused"}`+"\n")
	default:
		_, _ = io.WriteString(stream, "{}\n")
		_, _ = io.Copy(stream, in) // the frames of the room carry, as they come
	}
}

// program runs a made-up program, named by its first argument.
func (b *boot) program(p *sshtest.Process) sshx.Exit {
	name, arg := "", ""
	if len(p.Start.Argv) > 0 {
		name = p.Start.Argv[0]
	}
	if len(p.Start.Argv) > 1 {
		arg = p.Start.Argv[1]
	}
	switch name {
	case "cat": // stdin to stdout, its size to stderr
		n, _ := io.Copy(p.Stdout, p.Stdin)
		fmt.Fprintf(p.Stderr, "%d", n)
	case "exit":
		status := 0
		fmt.Sscan(arg, &status) //nolint:errcheck // 0 otherwise
		return sshx.Exit{Status: status}
	case "sleep": // until a signal or the hang-up
		return b.sleep(p)
	case "hangups": // waits until one more sleep was hung up than arg says
		fmt.Fprint(p.Stdout, b.hangups.beyond(arg, p.Hangup))
	case "size":
		fmt.Fprintf(p.Stdout, "%s %v ", p.TTY.Term, p.TTY.Size)
		fmt.Fprint(p.Stdout, <-p.Sizes)
	case "keep": // writes arg to the scratch
		if err := os.WriteFile(b.drive(wire.ScratchRole), []byte(arg), 0o600); err != nil {
			return sshx.Exit{Status: 1}
		}
	case "kept":
		data, _ := os.ReadFile(b.drive(wire.ScratchRole))
		fmt.Fprint(p.Stdout, strings.TrimRight(string(data[:min(len(data), 100)]), "\x00"))
	case "clock":
		fmt.Fprint(p.Stdout, b.clock.Load())
	case "vanish":
		return sshtest.Vanish
	case "full":
		_ = b.link.Send(wire.Message{Type: wire.DiskFull, Text: arg})
	case "memory": // says that arg bytes of it are free
		use := wire.MemoryUse{Total: b.guest.Spec.MemoryMiB << 20}
		fmt.Sscan(arg, &use.Free) //nolint:errcheck // 0 otherwise
		_ = b.link.Send(wire.Message{Type: wire.Memory, Memory: &use})
	case "panic":
		b.guest.Console("[    1.0] Kernel panic - not syncing: " + arg + "\n")
		b.stop(name)
		<-p.Hangup
	case "say":
		b.guest.Console(arg + "\n")
	case "console":
		b.guest.Console(strings.Repeat(arg, 1000))
	case "poweroff", "reboot", "crash", "starve":
		b.stop(name)
		<-p.Hangup
	default:
		return sshx.Exit{Status: 127}
	}
	return sshx.Exit{}
}

func (b *boot) sleep(p *sshtest.Process) sshx.Exit {
	fmt.Fprint(p.Stdout, "zzz")
	select {
	case name := <-p.Signals:
		return sshx.Exit{Signal: name}
	case <-p.Hangup:
		b.hangups.add()
		return sshx.Exit{}
	}
}

// hangups counts sleeps that were hung up.
type hangups struct {
	mu     sync.Mutex
	n      int
	change chan struct{}
}

func (h *hangups) add() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
	if h.change != nil {
		close(h.change)
		h.change = nil
	}
}

// beyond waits until more than want were hung up.
func (h *hangups) beyond(want string, gone <-chan struct{}) int {
	limit := 0
	fmt.Sscan(want, &limit) //nolint:errcheck // 0 otherwise
	for {
		h.mu.Lock()
		n := h.n
		if h.change == nil {
			h.change = make(chan struct{})
		}
		change := h.change
		h.mu.Unlock()
		if n > limit {
			return n
		}
		select {
		case <-change:
		case <-gone:
			return n
		}
	}
}
