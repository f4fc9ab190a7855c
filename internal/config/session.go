package config

import (
	"net"
	"net/url"
	"strings"
)

// proxyNames are the variables that send a program's connections through a
// proxy; each is read in lower and in upper case, because programs differ.
var proxyNames = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

// SessionEnv gives the host's proxy variables, in both cases where both are set,
// for the sessions of a sandbox. They end up on the seed, so one with a password
// in it is left out, and so is one that names this computer itself by a loopback
// address, which in the guest would be the guest: see WithheldEnv.
func (c Config) SessionEnv() map[string]string {
	env := map[string]string{}
	for _, name := range setProxies(c.Getenv) {
		if withheld(name, c.Getenv(name)) == "" {
			env[name] = c.Getenv(name)
		}
	}
	return env
}

// WithheldEnv names the proxy variables that SessionEnv leaves out, each with
// the reason, ready to be shown.
func (c Config) WithheldEnv() []string {
	var lines []string
	for _, name := range setProxies(c.Getenv) {
		if why := withheld(name, c.Getenv(name)); why != "" {
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
func withheld(name, value string) string {
	if strings.EqualFold(name, "no_proxy") {
		return ""
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value // curl's reading of an address without a scheme
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "":
		return "it is not an address"
	case u.User != nil:
		return "it holds credentials"
	case u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback():
		return "it names this computer by an address that means the sandbox itself there"
	}
	return ""
}
