//go:build vm

package vm_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// engineBound is the longest that installing a container engine may take: 2-4
// minutes under emulation, of which dpkg takes most.
const engineBound = 25 * time.Minute

// engine is a container engine as the distribution ships it.
type engine struct {
	name     string
	packages string
	start    string // shell that has it running
	facts    string // command that prints storage driver and version of control groups
	want     string // what it prints
	port     int
}

func engines() []engine {
	return []engine{
		// Without its proxy program only NAT can carry a published port.
		{
			"docker", "docker.io docker-cli iptables", `(setsid dockerd --userland-proxy=false >/var/log/dockerd.log 2>&1 &)
for i in $(seq 120); do docker info >/dev/null 2>&1 && break; sleep 1; done
docker info >/dev/null || { cat /var/log/dockerd.log; exit 1; }`,
			"docker info --format '{{.Driver}} {{.CgroupVersion}}'", "overlay2 2", 8081,
		},
		{
			"podman", "podman crun netavark nftables iptables", "printf '[engine]\\ncgroup_manager = \"cgroupfs\"\\nevents_logger = \"file\"\\n' >/etc/containers/containers.conf",
			"podman info --format '{{.Store.GraphDriverName}} {{.Host.CgroupsVersion}}'", "overlay v2", 8082,
		},
	}
}

// installScript installs without starting services: there is no init system.
const installScript = `set -eu
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
apt-get update -q
apt-get install -q -y --no-install-recommends %s
`

// imageScript makes an image of the guest's own perl, shell and cat, with the
// libraries they load, and imports it.
const imageScript = `set -eu
if ! [ -e /workspace/image.tar ]; then
	libraries=$(for p in /usr/bin/perl /usr/bin/dash /usr/bin/cat; do ldd $p; done | grep -o '/[^ ]*' | sort -u)
	tar -C / -cf /workspace/image.tar --dereference --transform 's,^/,,' -P $libraries
	tar -C / -rf /workspace/image.tar usr/bin/perl usr/bin/dash usr/bin/cat usr/lib/$(uname -m)-linux-gnu/perl-base
fi
%[1]s import /workspace/image.tar own:1 >/dev/null
mkdir -p /workspace/share
echo "from the host of the container" >/workspace/share/note
`

// serveProgram answers every connection with the file that is mounted.
const serveProgram = `$s = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die $!;
while ($c = $s->accept) { open F, "/share/note" or die $!; print $c "HTTP/1.0 200 OK\r\n\r\n", <F>; close $c }`

// reachProgram asks a server outside for its first line.
const reachProgram = `$s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 80, Timeout => 20) or die "connect: $!";
print $s "HEAD / HTTP/1.0\r\n\r\n"; print scalar <$s>`

// TestContainersInsideASandbox installs the engines from the package index and has
// each run a container made of the guest's own files: with a published port, a bind
// mount, a way out through NAT, and limits of its control group.
func TestContainersInsideASandbox(t *testing.T) {
	needLong(t)
	for _, row := range published(t).Rows {
		if row.Arch == runtime.GOARCH && row.Kernel.StandIn != "" {
			t.Skipf("the published kernel is %s's, standing in, and sandboxes get none of its netfilter modules: make kernel", row.Kernel.StandIn)
		}
	}
	w := theWorld
	for _, e := range engines() {
		// A sandbox for each: Docker drops what others forward.
		t.Run(e.name, func(t *testing.T) {
			w.must(t, "claude", "start", "-n", e.name, "--no-mount", "--no-attach", "--memory", "2G")
			t.Cleanup(func() { w.remove(e.name) })
			guest := guestShell{w, e.name}
			t.Logf("kernel %s", strings.TrimSpace(guest.must(t, "uname -r")))
			e.check(t, guest)
		})
	}
}

func (e engine) check(t *testing.T, guest guestShell) {
	if out, err := guest.run(t, fmt.Sprintf(installScript, e.packages)); err != nil {
		t.Fatalf("install %s: %v\n%s", e.packages, err, tail(out))
	}
	guest.must(t, e.start)
	if got := strings.TrimSpace(guest.must(t, e.facts)); got != e.want {
		t.Errorf("storage and control groups: %q, want %q", got, e.want)
	}
	guest.must(t, fmt.Sprintf(imageScript, e.name))
	guest.must(t, fmt.Sprintf(`%s run -d --name web -p %d:80 -v /workspace/share:/share:ro own:1 /usr/bin/perl -MIO::Socket::INET -e '%s'`,
		e.name, e.port, serveProgram))
	page := guest.must(t, fmt.Sprintf(`address=$(python3 -c "import socket; s = socket.socket(2, 2); s.connect((\"192.0.2.1\", 9)); print(s.getsockname()[0])")
for i in $(seq 30); do curl -sf --max-time 5 http://$address:%d/ && exit; sleep 1; done; %s logs web; exit 1`, e.port, e.name))
	if !strings.Contains(page, "from the host of the container") {
		t.Errorf("through the published port came %q", page)
	}
	rules := guest.must(t, "{ iptables -t nat -S; nft list ruleset; } 2>/dev/null || true")
	if !strings.Contains(strings.ToLower(rules), "masquerade") || !strings.Contains(rules, fmt.Sprint(e.port)) {
		t.Errorf("no NAT for the container:\n%s", rules)
	}
	e.checkLimitsAndWayOut(t, guest)
	guest.must(t, e.name+" rm -f web")
}

func (e engine) checkLimitsAndWayOut(t *testing.T, guest guestShell) {
	t.Helper()
	limits := guest.must(t, e.name+" run --rm --memory 64m --pids-limit 33 own:1 /usr/bin/cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max")
	if strings.Join(strings.Fields(limits), " ") != "67108864 33" {
		t.Errorf("limits in the container: %q", limits)
	}
	line := guest.must(t, fmt.Sprintf(`server=$(sed -n 's,^deb [^:]*://\([^/]*\)/.*,\1,p' /etc/apt/sources.list | head -n 1)
address=$(getent ahostsv4 "$server" | head -n 1 | cut -d' ' -f1)
%s run --rm own:1 /usr/bin/perl -MIO::Socket::INET -e '%s' "$address"`, e.name, reachProgram))
	if !strings.HasPrefix(line, "HTTP/1.") {
		t.Errorf("the package index answers the container with %q", line)
	}
	if out, err := guest.run(t, e.name+" run --rm -v /workspace/share:/share:ro own:1 /usr/bin/dash -c 'echo x >/share/new'"); err == nil {
		t.Errorf("a container wrote to a read-only mount: %s", out)
	}
}

// guestShell runs shell scripts as root in a sandbox.
type guestShell struct {
	w    *world
	name string
}

// run runs a script and returns all it printed.
func (g guestShell) run(t *testing.T, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), engineBound)
	defer cancel()
	cmd := g.w.command(ctx, "exec", g.name, "--", "sudo", "sh", "-c", script)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		return out.String() + errs.String(), err
	}
	return out.String(), nil
}

// must runs a script that has to succeed.
func (g guestShell) must(t *testing.T, script string) string {
	t.Helper()
	out, err := g.run(t, script)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, tail(out))
	}
	return out
}

// tail is the end of a long text.
func tail(text string) string {
	const most = 4000
	return text[max(0, len(text)-most):]
}
