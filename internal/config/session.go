package config

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/egress"
)

// proxyNames are the variables that send a program's connections through a
// proxy; each is read in lower and in upper case, because programs differ.
var proxyNames = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

// SessionEnv gives the host's proxy variables, in both cases where both are set,
// for the sessions of a sandbox with that policy. They end up on the seed, so one
// with a password in it is left out: see WithheldEnv. One that names this computer
// itself by a loopback address, which in the guest would be the guest, gets the name
// by which the guest reaches a port that the policy opens, and is else left out.
func (c Config) SessionEnv(policy egress.Policy) map[string]string {
	env := map[string]string{}
	for _, name := range setProxies(c.Getenv) {
		value := c.Getenv(name)
		if withheld(name, value, policy) != "" {
			continue
		}
		if u, err := ProxyURL(value); err == nil && !isNoProxy(name) && OnLoopback(u) {
			u.Host = egress.HostName + ":" + strconv.Itoa(int(ProxyPort(u)))
			value = u.String()
		}
		env[name] = value
	}
	return env
}

// WithheldEnv names the proxy variables that SessionEnv leaves out, each with
// the reason, ready to be shown.
func (c Config) WithheldEnv(policy egress.Policy) []string {
	var lines []string
	for _, name := range setProxies(c.Getenv) {
		if why := withheld(name, c.Getenv(name), policy); why != "" {
			lines = append(lines, name+" is not passed to the sandbox: "+why)
		}
	}
	return lines
}

func setProxies(getenv func(string) string) (names []string) {
	for _, lower := range proxyNames {
		for _, name := range []string{lower, strings.ToUpper(lower)} {
			if getenv(name) != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// withheld is the reason why a variable is not passed on, or "".
func withheld(name, value string, policy egress.Policy) string {
	if isNoProxy(name) {
		return ""
	}
	u, err := ProxyURL(value)
	switch {
	case err != nil || u.Hostname() == "":
		return "it is not an address"
	case u.User != nil:
		return "it holds credentials"
	case OnLoopback(u) && !policy.Host(ProxyPort(u)).Allowed:
		return fmt.Sprintf("it names this computer by an address that means the sandbox itself there; start it with --allow-host %d", ProxyPort(u))
	}
	return ""
}

func isNoProxy(name string) bool { return strings.EqualFold(name, "no_proxy") }

// OnLoopback tells whether a proxy is this computer itself, by a loopback address.
func OnLoopback(u *url.URL) bool {
	return u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
}

// ProxyURL reads a proxy variable.
func ProxyURL(value string) (*url.URL, error) {
	if !strings.Contains(value, "://") {
		value = "http://" + value // curl's reading of an address without a scheme
	}
	u, err := url.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("read the address of a proxy: %w", err)
	}
	return u, nil
}

// ProxyPort is the port of a proxy, named or usual for its kind; 0: none.
func ProxyPort(u *url.URL) uint16 {
	if u.Port() == "" {
		return map[string]uint16{"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}[u.Scheme]
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}
