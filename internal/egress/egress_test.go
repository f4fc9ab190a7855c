package egress

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func rules(t *testing.T, texts ...string) []Rule {
	t.Helper()
	var all []Rule
	for _, text := range texts {
		r, err := ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestClosedAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1": "loopback", "127.255.255.254": "loopback", "::1": "loopback", "0.0.0.0": "this host", "::": "this host",
		"10.1.2.3": "private", "172.31.255.255": "private", "192.168.0.1": "private", "100.64.0.1": "provider", "fd12::1": "private",
		"169.254.169.254": "metadata", "168.63.129.16": "metadata", "100.100.100.200": "metadata", "fd00:ec2::254": "metadata",
		"169.254.1.1": "link-local", "fe80::1": "link-local", "fe80::1%eth0": "link-local", "224.0.0.251": "multicast", "ff02::1": "multicast",
		"255.255.255.255": "broadcast", "240.0.0.1": "reserved",
		"::ffff:127.0.0.1": "loopback", "::ffff:10.0.0.1": "private", "::127.0.0.1": "reserved",
		"64:ff9b::7f00:1": "loopback", "64:ff9b::a9fe:a9fe": "metadata", "64:ff9b:1::1": "translation", "2002:7f00:1::1": "loopback", "2002:a00:1::": "private",
		"2001::1": "tunnel",
		"8.8.8.8": "", "172.32.0.1": "", "100.128.0.1": "", "2606:4700::1": "", "::ffff:8.8.8.8": "", "64:ff9b::808:808": "", "2002:808:808::": "",
		"203.0.113.80": "", "2001:db8::1": "",
	} {
		got := Closed(netip.MustParseAddr(text))
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s belongs to %q, want %q", text, got, want)
		}
	}
	if Closed(netip.Addr{}) == "" {
		t.Error("no address is open")
	}
}

func TestRules(t *testing.T) {
	for text, want := range map[string]string{
		"API.Example.com.": "api.example.com", "*.example.com:443": "*.example.com:443", "10.0.0.5:3128": "10.0.0.5:3128",
		"10.1.2.3/8": "10.0.0.0/8", "fd12::1": "fd12::1", "[fd12::1]:80-90": "[fd12::1]:80-90", "[fd12::/16]:443": "[fd12::/16]:443",
		"fd12::/16": "fd12::/16", "host.smolvm.internal:8080": "host.smolvm.internal:8080", "::ffff:10.0.0.1": "10.0.0.1",
	} {
		r, err := ParseRule(text)
		if err != nil || r.String() != want {
			t.Errorf("%s is read as %s, %v, want %s", text, r, err, want)
		}
		again, err := ParseRule(r.String())
		if err != nil || again != r {
			t.Errorf("%s does not survive writing: %v, %v", r, again, err)
		}
	}
	for _, text := range []string{
		"", "*", "*.", "a..b", "-a.b", "1.2.3", "1.2.3.4.5", "a:0", "a:70000", "a:9-8", "a:", "[::1", "[::1]x", "[::1]:", "a b", "a/b", "ex*mple.com",
		"::ffff:10.0.0.0/104", "host.smolvm.internal", "host.smolvm.internal:1-9", "https://example.com", "fe80::1%eth0",
	} {
		if r, err := ParseRule(text); err == nil {
			t.Errorf("%q is taken for the rule %s", text, r)
		}
	}
}

func TestPolicyIsKeptAsText(t *testing.T) {
	p := Policy{Mode: Restricted, Allow: rules(t, "a.example:443"), Deny: rules(t, "10.0.0.0/8")}
	data, err := json.Marshal(p)
	if err != nil || string(data) != `{"mode":"restricted","allow":["a.example:443"],"deny":["10.0.0.0/8"]}` {
		t.Fatalf("written as %s, %v", data, err)
	}
	var again Policy
	if err := json.Unmarshal(data, &again); err != nil || again.Allow[0] != p.Allow[0] {
		t.Fatalf("read as %+v, %v", again, err)
	}
}

func TestDecisions(t *testing.T) {
	open := Policy{}
	named := Policy{Allow: rules(t, "10.0.0.5:3128", "host.smolvm.internal:8080")}
	denied := Policy{Deny: rules(t, "bad.example", "203.0.113.0/24:25")}
	tight := Policy{Mode: Restricted, Allow: rules(t, "api.example:443", "*.cdn.example", "198.51.100.7:22")}
	for _, c := range []struct {
		name    string
		policy  Policy
		proto   Protocol
		to      string
		names   string
		own     bool
		allowed bool
		rule    string // suggested
	}{
		{"public", open, TCP, "203.0.113.1:443", "", false, true, ""},
		{"own public address", open, TCP, "203.0.113.1:443", "", true, false, "203.0.113.1:443"},
		{"private", open, TCP, "10.0.0.5:3128", "proxy.example", false, false, "10.0.0.5:3128"},
		{"mapped", open, TCP, "[::ffff:10.0.0.5]:3128", "", false, false, "10.0.0.5:3128"},
		{"named private", named, TCP, "10.0.0.5:3128", "", false, true, ""},
		{"named private, mapped", named, TCP, "[::ffff:10.0.0.5]:3128", "", false, true, ""},
		{"named private, other port", named, TCP, "10.0.0.5:22", "", false, false, "10.0.0.5:22"},
		{"denied name", denied, TCP, "203.0.113.9:80", "bad.example", false, false, ""},
		{"denied address", denied, TCP, "203.0.113.9:25", "", false, false, ""},
		{"beside it", denied, TCP, "203.0.113.9:80", "good.example", false, true, ""},
		{"off", Policy{Mode: Off, Allow: rules(t, "203.0.113.9")}, TCP, "203.0.113.9:80", "", false, false, ""},
		{"restricted, bare address", tight, TCP, "203.0.113.1:443", "", false, false, "203.0.113.1:443"},
		{"restricted, name", tight, TCP, "203.0.113.1:443", "api.example", false, true, ""},
		{"restricted, other port", tight, TCP, "203.0.113.1:22", "api.example", false, false, "api.example:22"},
		{"restricted, below a name", tight, TCP, "203.0.113.1:8080", "a.b.cdn.example", false, true, ""},
		{"restricted, not the name itself", tight, TCP, "203.0.113.1:443", "cdn.example", false, false, "cdn.example:443"},
		{"restricted, rebound", tight, TCP, "192.168.1.1:443", "api.example", false, false, "192.168.1.1:443"},
		{"restricted, named address", tight, TCP, "198.51.100.7:22", "", false, true, ""},
		{"restricted, QUIC", tight, UDP, "203.0.113.1:443", "api.example", false, false, "203.0.113.1:443"},
		{"restricted, DNS elsewhere", tight, UDP, "8.8.8.8:53", "", false, false, "8.8.8.8:53"},
	} {
		conn := Connection{Protocol: c.proto, To: netip.MustParseAddrPort(c.to), Own: c.own}
		if c.names != "" {
			conn.Names = []string{c.names}
		}
		v := c.policy.Decide(conn)
		if v.Allowed != c.allowed || v.Rule != c.rule || v.Allowed == (v.Reason != "") {
			t.Errorf("%s: %+v", c.name, v)
		}
		if v.Rule == "" {
			continue
		}
		r, err := ParseRule(v.Rule)
		if err != nil {
			t.Errorf("%s: the rule it suggests: %v", c.name, err)
		} else if again := c.policy.Allowing(r).Decide(conn); !again.Allowed {
			t.Errorf("%s: the rule it suggests does not allow it: %+v", c.name, again)
		}
	}
}

func TestNames(t *testing.T) {
	tight := Policy{Mode: Restricted, Allow: rules(t, "api.example:443"), Deny: rules(t, "no.api.example")}
	for name, want := range map[string]bool{"API.example.": true, "other.example": false, "host.smolvm.internal": true} {
		if v := tight.Resolve(name); v.Allowed != want {
			t.Errorf("restricted: %s: %+v", name, v)
		}
	}
	open := Policy{Deny: rules(t, "*.bad.example")}
	if open.Resolve("a.bad.example").Allowed || !open.Resolve("bad.example").Allowed {
		t.Error("open: denied names are not told apart")
	}
	if (Policy{Mode: Off}).Resolve("api.example").Allowed {
		t.Error("off resolves")
	}
	if !tight.Says("api.example", 443).Allowed || tight.Says("evil.example", 443).Allowed || tight.Says("api.example", 80).Allowed {
		t.Error("names that a connection tells are not judged by the rules")
	}
}

func TestPortsOfThisComputer(t *testing.T) {
	p := Policy{Allow: []Rule{HostPort(8080)}}
	if !p.Host(8080).Allowed || p.Host(8081).Allowed {
		t.Errorf("8080: %+v, 8081: %+v", p.Host(8080), p.Host(8081))
	}
	if r, err := ParseRule(p.Host(8081).Rule); err != nil || !p.Allowing(r).Host(8081).Allowed {
		t.Errorf("what is suggested does not help: %v, %v", r, err)
	}
	if p.Denying(HostPort(8080)).Host(8080).Allowed {
		t.Error("a denied port is open")
	}
	if (Policy{Allow: rules(t, "*.internal", "*.smolvm.internal")}).Host(1).Allowed {
		t.Error("a pattern opens every port of this computer")
	}
}

func TestAllowAndDenyUndoEachOther(t *testing.T) {
	r := rules(t, "a.example")[0]
	p := Policy{}.Allowing(r, r).Denying(r)
	if len(p.Allow) != 0 || len(p.Deny) != 1 {
		t.Errorf("%+v", p)
	}
	if p = p.Allowing(r); len(p.Allow) != 1 || len(p.Deny) != 0 {
		t.Errorf("%+v", p)
	}
}
