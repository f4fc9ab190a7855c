//go:build vm && linux

package vm_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest/setup"
	nocloud "github.com/smolvm/smolvm/internal/seed"
	"github.com/smolvm/smolvm/internal/wire"
)

// plainRoot makes, over the guest's own root, one in which a Debian can be set up.
const plainRoot = `set -eu
mkdir -p /workspace/plain /workspace/upper /workspace/work
mount -t overlay overlay -o lowerdir=/,upperdir=/workspace/upper,workdir=/workspace/work /workspace/plain
cat >/workspace/plain/enter <<'END'
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
hostname plain
export DEBIAN_FRONTEND=noninteractive
END
`

// plainShell runs a script in that root, apart from the sandbox.
const plainShell = `cat >/workspace/plain/script <<'SCRIPT'
%s
SCRIPT
exec unshare --mount --uts --pid --fork chroot /workspace/plain sh -euc '. /enter; . /script'`

// installCloudInit makes a Debian with cloud-init and netplan, as Debian's cloud
// images have them, and without anything that our agent takes from the seed. An SSH
// server is left out and nothing is asked of systemd: no services run here.
const installCloudInit = `printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
apt-get update -q
apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io cloud-init netplan.io
ln -sf true /usr/bin/systemctl
userdel --remove agent || true
rm -rf /etc/sudoers.d/agent /usr/local/share/ca-certificates/*.crt /root/.ssh /etc/ssh/ssh_host_* /etc/smolvm.text /etc/smolvm.bytes
update-ca-certificates --fresh >/dev/null`

// cloudInit runs the stages in the order in which an init system does. A stage that
// complains, such as of what its schema does not know, ends with a status. What is in
// /run is gone with this shell.
const cloudInit = `cloud-init init --local
cloud-init init
cloud-init modules --mode=config
cloud-init modules --mode=final
netplan generate
cp -r /run/systemd/network /etc/made
cloud-init status --format json | jq -c .errors >/etc/made/errors`

// TestCloudInitReadsTheSeed has Debian's cloud-init read a sandbox's own seed disk:
// what our agent takes of it, it takes too.
func TestCloudInitReadsTheSeed(t *testing.T) {
	needLong(t)
	w, name := theWorld, theWorld.sandbox(t, "cloud")
	w.must(t, "stop", name)
	authority := newAuthority(t)
	given := addToSeed(t, filepath.Join(w.home, "sandboxes", name, "seed.img"), authority)
	w.must(t, "start", name, "--no-attach")
	guest := guestShell{w, name}
	if text := guest.must(t, "cat /etc/smolvm.text"); text != "one: line\n" {
		t.Errorf("our own agent wrote %q", text)
	}
	guest.must(t, plainRoot)
	guest.plain(t, installCloudInit)
	t.Log(tail(guest.plain(t, cloudInit)))
	taken := takenFromSeed(given)
	for _, script := range slices.Sorted(maps.Keys(taken)) {
		if got := strings.TrimSpace(guest.plain(t, script)); got != taken[script] {
			t.Errorf("%s: %q, want %q", script, got, taken[script])
		}
	}
	for _, certificate := range given.User.CACertificates.Trusted {
		script := fmt.Sprintf("cat >/tmp/one.pem <<'END'\n%s\nEND\nopenssl verify -CAfile /etc/ssl/certs/ca-certificates.crt -partial_chain /tmp/one.pem", certificate)
		if got := guest.plain(t, script); !strings.Contains(got, "one.pem: OK") {
			t.Errorf("a certificate is not trusted: %s", got)
		}
	}
}

// takenFromSeed is what scripts print where the seed was understood.
func takenFromSeed(given nocloud.Document) map[string]string {
	return map[string]string{
		"readlink -f /var/lib/cloud/instance":                                         "/var/lib/cloud/instances/" + given.Meta.InstanceID,
		"cut -d: -f1 /var/lib/cloud/instance/datasource":                              "DataSourceNoCloud",
		"cat /etc/made/errors":                                                        "[]",
		"cat /etc/hostname":                                                           given.User.Hostname,
		"cat /etc/ssh/ssh_host_ed25519_key":                                           strings.TrimSpace(given.User.HostKeys.Private),
		"cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub":                           keyOf(given.User.HostKeys.Public),
		"ls /etc/ssh | grep -c ^ssh_host_":                                            "2",
		"cat /etc/ssh/sshd_config":                                                    "PasswordAuthentication no",
		"getent passwd agent | cut -d: -f3,6,7":                                       "1000:/home/agent:/bin/bash",
		"passwd --status agent | cut -d' ' -f2":                                       "L",
		"su agent -c 'sudo -n id -un'":                                                "root",
		"cut -d' ' -f1,2 /home/agent/.ssh/authorized_keys":                            keyOf(given.User.AuthorizedKeys[0]),
		"stat -c '%a %U' /home/agent/.ssh/authorized_keys":                            "600 agent",
		"cut -d' ' -f1,2 /root/.ssh/authorized_keys":                                  keyOf(given.User.AuthorizedKeys[0]),
		"cat /etc/smolvm.text; stat -c '%a %U:%G' /etc/smolvm.text":                   "one: line\n640 root:root",
		"od -A n -t x1 /etc/smolvm.bytes":                                             "00 ff 0a",
		"grep -hE '^(Name|Address|Gateway|DNS)=' /etc/made/*.network | LC_ALL=C sort": networkFile(given.Network.Ethernets["uplink"]),
	}
}

// networkFile are the sorted lines that netplan writes for an interface.
func networkFile(e wire.Ethernet) string {
	lines := []string{"Name=" + e.Match.Name}
	for _, address := range e.Addresses {
		lines = append(lines, "Address="+address)
	}
	for _, route := range e.Routes {
		lines = append(lines, "Gateway="+route.Via)
	}
	for _, server := range e.Nameservers.Addresses {
		lines = append(lines, "DNS="+server)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// keyOf is a public key without its comment.
func keyOf(line string) string {
	return strings.Join(strings.Fields(line)[:2], " ")
}

// plain runs a script in the root that plainRoot made.
func (g guestShell) plain(t *testing.T, script string) string {
	t.Helper()
	return g.must(t, fmt.Sprintf(plainShell, script))
}

// addToSeed adds files and a certificate to a stopped sandbox's seed and gives all
// that is in it.
func addToSeed(t *testing.T, path, authority string) nocloud.Document {
	t.Helper()
	read, err := setup.ReadSeed(path)
	if err != nil {
		t.Fatal(err)
	}
	all := nocloud.Document(read)
	all.User.CACertificates.Trusted = append(all.User.CACertificates.Trusted, authority)
	all.User.WriteFiles = append(
		all.User.WriteFiles,
		wire.WriteFile{Path: "/etc/smolvm.text", Content: "one: line\n", Owner: "root:root", Permissions: "0640"},
		wire.WriteFile{Path: "/etc/smolvm.bytes", Content: "AP8K", Encoding: "b64", Permissions: "0600"},
	)
	if err := nocloud.Write(path, all); err != nil {
		t.Fatal(err)
	}
	return all
}

// newAuthority makes a certificate authority, in PEM.
func newAuthority(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, about, about, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
}
