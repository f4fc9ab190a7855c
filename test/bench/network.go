//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/host"
)

// netWork does one thing over the guest's network, n times or n MiB of it, and says
// how long each took. Both networks have this computer at 10.0.2.2 and a resolver at
// 10.0.2.3.
const netWork = `
import json, resource, socket, struct, sys, time
kind, port, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def timed(f):
    a = time.monotonic(); f(); return time.monotonic() - a
def dial(): return socket.create_connection(("10.0.2.2", port), 60)
block = memoryview(bytes(1 << 20))
def up():
    s = dial(); s.sendall(b"u")
    for _ in range(n): s.sendall(block)
    s.shutdown(socket.SHUT_WR)
    if s.recv(1) != b"u": raise SystemExit("the sink did not take all")
def down():
    s = dial(); s.sendall(b"d" + struct.pack("!Q", n << 20)); left, into = n << 20, bytearray(1 << 20)
    while left:
        got = s.recv_into(into)
        if not got: raise SystemExit("%d bytes are missing" % left)
        left -= got
def connect(): dial().close()
def ask():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
    s.sendto(struct.pack("!6H", 4711, 0x100, 1, 0, 0, 0) + b"\x09localhost\0" + struct.pack("!2H", 1, 1), ("10.0.2.3", 53)); s.recv(4096)
def crowd():
    resource.setrlimit(resource.RLIMIT_NOFILE, (n + 50, n + 50)); all = [dial() for _ in range(n)]
    for i, s in enumerate(all): s.sendall(b"e" + b"%08d" % i)
    for i, s in enumerate(all):
        if s.recv(8, socket.MSG_WAITALL) != b"%08d" % i: raise SystemExit("connection %d does not hold" % i)
    print("all hold", flush=True); sys.stdin.readline()
if kind in ("up", "down"): took = [timed(globals()[kind])]
elif kind == "crowd": crowd(); took = []
else:
    took = []
    for _ in range(n): took.append(timed(globals()[kind])); time.sleep(0.02)
print(json.dumps(took))
`

// How much is done of each.
const (
	netMiB      = 128
	netConnects = 100 // in a round
	netAsks     = 20  // few, and with pauses: resolvers have limits
	netCrowd    = 1000
)

// userNetwork is a QEMU that puts its own user network in the place of the card that
// ends in the supervisor. All else is the same, but that it runs in no cage, where
// that network would reach nothing.
const userNetwork = `#!/bin/bash
args=()
for a; do
	case $a in
	stream,id=net0,*) a=user,id=net0 ;;
	virtio-net-*,host_mtu=*) a=$(printf %%s "$a" | sed 's/,host_mtu=[0-9]*//') ;;
	esac
	args+=("$a")
done
exec %s "${args[@]}"
`

// netSide is one of the two networks.
type netSide struct {
	name         string // of its sandbox
	up, down     series // of netMiB
	connect, ask series
}

// network compares the sandbox's network with QEMU's own, by turns.
func (b *bench) network(ctx context.Context) (text string, err error) {
	s, err := newSink()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	defer func() { // ends the connections, too
		_, _ = b.must(context.WithoutCancel(ctx), "delete", "--yes", "net-ours", "net-user")
	}()
	ours, theirs := &netSide{name: "net-ours"}, &netSide{name: "net-user"}
	idle, err := b.startSides(ctx, s)
	if err != nil {
		return "", err
	}
	var direct series
	for round := range b.rounds + 1 {
		for _, side := range []*netSide{ours, theirs} {
			if err := b.netRound(ctx, side, s, round > 0); err != nil {
				return "", err
			}
		}
		for range netAsks {
			d, err := timed(askHere)
			if err = errors.Join(err, pause(ctx, 20*time.Millisecond)); err != nil {
				return "", err
			}
			direct = append(direct, d)
		}
	}
	crowd, err := b.netCrowd(ctx, ours, s)
	if err != nil {
		return "", err
	}
	return netTable(ours, theirs, direct) + fmt.Sprintf(
		"\n| the supervisor's own (anonymous) memory | |\n|---|---|\n| idle, with three forwarded ports and a mount | %s (goal below 30 MiB: %s) |\n| while %d connections are open, each of which has sent and got | %s (all of them held: met) |\n",
		mib(idle), met(idle < 30<<20), netCrowd, mib(crowd)), nil
}

// startSides starts both sandboxes, and gives the memory of our supervisor while
// nothing happens.
func (b *bench) startSides(ctx context.Context, s *sink) (idle int64, err error) {
	project := filepath.Join(b.scratch, "net")
	if err := os.MkdirAll(project, 0o755); err != nil {
		return 0, err
	}
	args := []string{"claude", "start", "--no-attach", "--keep", "--cpus", "2", "--memory", "1G", "--allow-host", strconv.Itoa(s.port())}
	if _, err := b.must(ctx, append(args, "-n", "net-ours", "--mount", project, "-p", "0:3000", "-p", "0:5173", "-p", "0:8000")...); err != nil {
		return 0, err
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return 0, err
	}
	if idle, err = b.ownMemory("net-ours"); err != nil {
		return 0, err
	}
	before := b.env
	defer func() { b.env = before }()
	if b.env, err = b.withUserNetwork(); err != nil {
		return 0, err
	}
	_, err = b.must(ctx, append(args, "-n", "net-user", "--no-mount")...)
	return idle, err
}

// withUserNetwork is the environment of a start under userNetwork.
func (b *bench) withUserNetwork() ([]string, error) {
	folder := filepath.Join(b.scratch, "user-network")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	name := map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[host.Probe().Arch]
	real, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	err = os.WriteFile(filepath.Join(folder, name), fmt.Appendf(nil, userNetwork, real), 0o755)
	return append(b.env, "PATH="+folder+":"+os.Getenv("PATH")), err
}

// netRound does everything once on one side.
func (b *bench) netRound(ctx context.Context, side *netSide, s *sink, counts bool) error {
	for _, work := range []struct {
		kind string
		n    int
		all  *series
	}{{"up", netMiB, &side.up}, {"down", netMiB, &side.down}, {"connect", netConnects, &side.connect}, {"ask", netAsks, &side.ask}} {
		out, err := b.must(ctx, "exec", side.name, "--", "python3", "-c", netWork, work.kind, strconv.Itoa(s.port()), strconv.Itoa(work.n))
		if err != nil {
			return err
		}
		var took []float64
		if err := json.Unmarshal([]byte(out), &took); err != nil {
			return fmt.Errorf("read how long %q took: %w: %s", work.kind, err, out)
		}
		for _, seconds := range took {
			if counts {
				*work.all = append(*work.all, time.Duration(seconds*float64(time.Second)))
			}
		}
	}
	return nil
}

// netCrowd gives the supervisor's memory while many connections are open.
func (b *bench) netCrowd(ctx context.Context, side *netSide, s *sink) (memory int64, err error) {
	cmd := b.command(ctx, "exec", side.name, "--", "sudo", "python3", "-c", netWork, "crowd", strconv.Itoa(s.port()), strconv.Itoa(netCrowd))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line := make([]byte, len("all hold\n"))
	_, _ = out.Read(line)
	memory, err = b.ownMemory(side.name)
	err = errors.Join(err, in.Close(), cmd.Wait())
	if string(line) != "all hold\n" || err != nil {
		return 0, fmt.Errorf("%d connections at a time: %w: %s%s", netCrowd, err, line, errs.Bytes())
	}
	return memory, nil
}

// ownMemory is the anonymous memory of a sandbox's supervisor, in bytes.
func (b *bench) ownMemory(name string) (int64, error) {
	pids, err := b.pids(name)
	if err != nil {
		return 0, err
	}
	text := field(fmt.Sprintf("/proc/%d/status", pids[0]), "RssAnon")
	kib, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the supervisor's memory: %w", err)
	}
	return kib << 10, nil
}

// askHere asks this computer's resolver what guests ask it.
func askHere() error {
	resolvers := host.Resolvers(host.ResolverFile)
	if len(resolvers) == 0 {
		return errors.New("this computer has no resolver")
	}
	conn, err := net.Dial("udp", resolvers[0].String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte("\x12\x67\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 4096))
	return err
}

func netTable(ours, theirs *netSide, direct series) string {
	var text strings.Builder
	fmt.Fprintf(&text, "## Network\n\nTwo sandboxes that differ in the network alone: SmolVM's, and QEMU's own user network (`-netdev user`, in no cage). "+
		"The same Python program in each by turns, with a server on this computer's 127.0.0.1. One round first that is not counted.\n\n"+
		"| | SmolVM's | QEMU's own | ratio |\n|---|---|---|---|\n")
	speed := func(name string, ours, theirs series) {
		r := ratio(theirs, ours)
		fmt.Fprintf(&text, "| %s, %d MiB over TCP | %s | %s | %.2f (goal at least 0.9x: %s) |\n", name, netMiB, rates(ours), rates(theirs), r, met(r >= 0.9))
	}
	speed("guest to host", ours.up, theirs.up)
	speed("host to guest", ours.down, theirs.down)
	r := ratio(ours.connect, theirs.connect)
	fmt.Fprintf(&text, "| set-up of a TCP connection | %s | %s | %.2f (%s) |\n", ours.connect, theirs.connect, r, verdict(r, 1.3))
	fmt.Fprintf(&text, "| a question for a name | %s | %s | |\n", ours.ask, theirs.ask)
	added := ours.ask.median() - direct.median()
	fmt.Fprintf(&text, "\nThe same question asked here, without a guest: %s. Added: %s (goal below 5 ms: %s), the emulated guest's own part included.\n", direct, show(added), met(added < 5*time.Millisecond))
	return text.String()
}

// rates shows how fast netMiB went.
func rates(s series) string {
	rate := func(d time.Duration) string { return fmt.Sprintf("%.1f", netMiB/d.Seconds()) }
	return fmt.Sprintf("%s MiB/s [%s-%s]", rate(s.median()), rate(slices.Max(s)), rate(slices.Min(s)))
}
