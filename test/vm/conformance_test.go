//go:build vm

package vm_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// promise is what one preset adds to what all sandboxes promise.
type promise struct {
	agent     []string // prints the version
	version   string
	memoryMiB int // 0: not asserted
}

// conform holds a sandbox to what every sandbox promises, whether its image was
// published or built here. Whoever adds a property of sandboxes adds its case.
func conform(t *testing.T, w *world, name string, p promise) {
	t.Helper()
	in := func(script string) string {
		t.Helper()
		return strings.TrimSpace(w.must(t, "exec", name, "--", "sh", "-c", script))
	}
	if got := strings.TrimSpace(w.must(t, append([]string{"exec", name, "--"}, p.agent...)...)); !strings.Contains(got, p.version) {
		t.Errorf("the agent says %q, want version %s", got, p.version)
	}
	for script, want := range map[string]string{
		"id -un; id -u; id -g":                   "agent\n1000\n1000",
		"pwd; echo $HOME; echo $USER":            "/workspace\n/home/agent\nagent",
		"sudo -n id -un":                         "root",
		"stat -c '%U %a' /home/agent /workspace": "agent 755\nagent 755",
		// Nothing of a build, no identity and no secret is in an image.
		"ls -d /run/smolvm-build /root/.npm /home/agent/.npm /home/agent/.cache 2>/dev/null | wc -l":                                       "0",
		"ls -A /etc/ssh/ssh_host_* /root/.ssh /home/agent/.ssh/id_* 2>/dev/null | wc -l":                                                   "0",
		"ls -A /var/lib/apt/lists /var/cache/apt/archives 2>/dev/null | grep -c 'deb$\\|Packages'; true":                                   "0",
		"find / -xdev -name '.*_history' 2>/dev/null | wc -l":                                                                              "0",
		"find / -xdev -type f -perm -2 -o -type d -perm -2 ! -perm -1000 2>/dev/null | grep -v '^/proc\\|^/dev\\|^/sys' | xargs -r ls -ld": "",
	} {
		if got := in(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if path := in("echo $PATH"); !strings.HasPrefix(path, "/home/agent/.local/bin:/usr/local/") {
		t.Errorf("PATH is %s", path)
	}
	if p.memoryMiB > 0 {
		kib, _ := strconv.Atoi(in("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))
		if mib := kib >> 10; mib > p.memoryMiB || mib < p.memoryMiB*3/4 {
			t.Errorf("the guest has %d MiB of memory, the preset says %d", mib, p.memoryMiB)
		}
	}
	ownIdentity(t, w, name, in)
	certificates(t, in)
}

// TestPublishedImageConforms is the published half of the suite; TestUnpublishedPresetIsBuiltOnce
// and TestOwnBuildOfAPublishedPreset are the other, TestEveryRowBoots has all rows.
func TestPublishedImageConforms(t *testing.T) {
	conform(t, theWorld, theWorld.common(t), promise{agent: []string{"claude", "--version"}, version: publishedVersion(t), memoryMiB: 1024})
}

// ownIdentity holds that host key and machine id are the sandbox's own and that the
// host's side is closed.
func ownIdentity(t *testing.T, w *world, name string, in func(string) string) {
	t.Helper()
	var envelope struct{ Data struct{ ID string } }
	if err := json.Unmarshal([]byte(w.must(t, "info", name, "--json")), &envelope); err != nil {
		t.Fatal(err)
	}
	if id := in("cat /etc/machine-id"); len(id) != 32 || strings.Trim(id, "0") == "" {
		t.Errorf("machine-id %q", id)
	}
	folder := filepath.Join(w.home, "sandboxes", name)
	for file, mode := range map[string]os.FileMode{"seed.img": 0o600, "ssh/client_ed25519": 0o600, "ssh/host_ed25519": 0o600} {
		info, err := os.Stat(filepath.Join(folder, file))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	host := strings.Fields(read(t, filepath.Join(folder, "ssh", "host_ed25519.pub")))
	if known := read(t, filepath.Join(folder, "ssh", "known_hosts")); len(host) < 2 || !strings.Contains(known, host[1]) {
		t.Errorf("known_hosts does not pin the sandbox's key: %s", known)
	}
}

// certificates holds that the guest's programs trust what the host's do.
func certificates(t *testing.T, in func(string) string) {
	t.Helper()
	if bundle := in("wc -c </etc/ssl/certs/ca-certificates.crt"); bundle == "0" {
		t.Error("the guest has no certificates")
	}
	if extra := in("ls /usr/local/share/ca-certificates | wc -l"); extra != "0" && in("echo ${NODE_EXTRA_CA_CERTS:-none}") == "none" {
		t.Error("the host's extra certificates are there and Node is not told")
	}
}
