//go:build linux

package setup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// profile puts the user's own programs first in login shells as well, whose
// /etc/profile sets PATH anew.
const profile = `case ":$PATH:" in
*":$HOME/.local/bin:"*) ;;
*) PATH="$HOME/.local/bin:$PATH:/run/smolvm/bin" ;;
esac
`

// Apply writes all of the seed below root but the network. It returns what
// sessions find in their environment on account of it.
func Apply(root string, seed Seed) (map[string]string, error) {
	build := seed.Session.Build
	if err := WriteIdentity(root, seed); err != nil {
		return nil, err
	}
	for _, user := range seed.User.Users {
		if user.Name == "root" {
			continue
		}
		if err := AddAccount(root, user); err != nil {
			return nil, err
		}
	}
	env, err := applyCertificates(root, seed.User.CACertificates, build)
	if err != nil {
		return nil, err
	}
	for _, file := range seed.User.WriteFiles {
		if err := writeSeedFile(root, file); err != nil {
			return nil, err
		}
	}
	if !build {
		if err := writeFile(filepath.Join(root, "etc/profile.d/smolvm.sh"), []byte(profile), 0o644); err != nil {
			return nil, fmt.Errorf("write profile: %w", err)
		}
	}
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, seed.Session.Env)
	return env, nil
}

// WriteIdentity writes what makes this machine this one.
func WriteIdentity(root string, seed Seed) error {
	host := seed.Hostname()
	files := map[string]string{
		"etc/hostname":    host + "\n",
		"etc/hosts":       hosts(host),
		"etc/machine-id":  machineID(seed.Meta.InstanceID) + "\n",
		"etc/resolv.conf": resolvConf(seed),
	}
	for name, content := range files {
		if err := writeFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write /%s: %w", name, err)
		}
	}
	return nil
}

func hosts(host string) string {
	return "127.0.0.1 localhost\n127.0.1.1 " + host + "\n" +
		"::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
}

// machineID is derived from the instance id, so that it is the sandbox's own and
// stays the same over its restarts.
func machineID(instance string) string {
	sum := sha256.Sum256([]byte("smolvm machine-id\x00" + instance))
	sum[6] = sum[6]&0x0f | 0x40 // systemd wants a version 4 UUID
	sum[8] = sum[8]&0x3f | 0x80
	return hex.EncodeToString(sum[:16])
}

func resolvConf(seed Seed) string {
	var b strings.Builder
	cards := seed.Network.Ethernets
	for _, name := range slices.Sorted(maps.Keys(cards)) {
		for _, server := range cards[name].Nameservers.Addresses {
			if !strings.ContainsAny(server, " \n") {
				fmt.Fprintf(&b, "nameserver %s\n", server)
			}
		}
	}
	var search []string
	for _, name := range slices.Sorted(maps.Keys(cards)) {
		search = append(search, cards[name].Nameservers.Search...)
	}
	search = slices.DeleteFunc(search, func(domain string) bool { return strings.ContainsAny(domain, " \n") })
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	return b.String()
}

// PowerCommands lists the names under which the agent's binary turns the
// machine off or restarts it.
func PowerCommands() []string { return []string{"poweroff", "reboot", "halt", "shutdown"} }

// LinkPowerCommands puts the power commands into dir, as links to agent, and
// with system also into the places that sudo's own PATH has, where the image
// has none.
func LinkPowerCommands(root, dir, agent string, system bool) error {
	if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
		return fmt.Errorf("link power commands: %w", err)
	}
	for _, name := range PowerCommands() {
		if err := os.Symlink(agent, filepath.Join(root, dir, name)); err != nil && !os.IsExist(err) {
			return fmt.Errorf("link power commands: %w", err)
		}
		if !system {
			continue
		}
		place := filepath.Join(root, "usr/sbin", name)
		if _, err := os.Lstat(place); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join("/", dir, name), place); err != nil && !os.IsExist(err) {
			return fmt.Errorf("link power commands: %w", err)
		}
	}
	return nil
}
