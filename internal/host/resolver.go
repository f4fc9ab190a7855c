package host

import (
	"net/netip"
	"os"
	"strings"
)

// ResolverFile is where systems of the Unix kind say which resolvers they ask.
const ResolverFile = "/etc/resolv.conf"

// maxResolvers is how many of them the C library asks.
const maxResolvers = 3

// Resolvers are the resolvers that this computer asks, in order. The file is read
// each time: a VPN that comes up changes it.
func Resolvers(file string) []netip.AddrPort {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var all []netip.AddrPort
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" || len(all) == maxResolvers {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			all = append(all, netip.AddrPortFrom(addr, 53))
		}
	}
	return all
}

// maxSearched is how many domains the C library looks names up in.
const maxSearched = 6

// Searched are the domains in which this computer looks up names that have no dots.
func Searched(file string) (domains []string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "search" && words[0] != "domain" {
			continue
		}
		domains = nil // the last line counts
		for _, word := range words[1:] {
			if word = strings.TrimSuffix(word, "."); isDomain(word) && len(domains) < maxSearched {
				domains = append(domains, word)
			}
		}
	}
	return domains
}

func isDomain(text string) bool {
	return text != "" && len(text) < 254 && !strings.ContainsFunc(text, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}
