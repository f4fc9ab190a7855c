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
		"2001::1":    "tunnel",
		"198.18.0.1": "measure", "198.19.255.255": "measure", "192.88.99.1": "tunnel", "::ffff:0:a00:1": "translation", "100::1": "reserved",
		"64:ff9b::c612:1": "measure",
		"8.8.8.8":         "", "172.32.0.1": "", "100.128.0.1": "", "2606:4700::1": "", "::ffff:8.8.8.8": "", "64:ff9b::808:808": "", "2002:808:808::": "",
		"203.0.113.80": "", "2001:db8::1": "",
	} {
		got := Closed(netip.MustParseAddr(text))
		suggestedOpens(t, netip.MustParseAddr(text))
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s belongs to %q, want %q", text, got, want)
		}
	}
	if Closed(netip.Addr{}) == "" {
		t.Error("no address is open")
	}
}

// suggestedOpens compares a refusal's rule, if it has one, with what it does.
func suggestedOpens(t *testing.T, a netip.Addr) {
	t.Helper()
	c := Connection{Protocol: TCP, To: netip.AddrPortFrom(a, 80)}
	v := Policy{Mode: Restricted}.Decide(c)
	if v.Rule == "" {
		if !strings.Contains(v.Reason, "loopback") && !strings.Contains(v.Reason, "this host") {
			t.Errorf("%s: no rule is told: %s", a, v.Reason)
		}
		return
	}
	r, err := ParseRule(v.Rule)
	if err != nil || r.Opens() != nil {
		t.Errorf("%s: the rule %q is told: %v, %v", a, v.Rule, err, r.Opens())
	}
	if after := (Policy{Mode: Restricted, Allow: []Rule{r}}).Decide(c); !after.Allowed {
		t.Errorf("%s: the rule %q that is told does not open it: %s", a, v.Rule, after.Reason)
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

// TestRulesThatOpenNothing compares what is said of a rule with what it opens: the
// first or the last address of its range, or a public one.
func TestRulesThatOpenNothing(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:3128": "reaches itself", "127.0.0.0/8": "reaches itself", "[::1]:80": "reaches itself", "0.0.0.0": "reaches itself", "::": "reaches itself",
		"224.0.0.0/4": "of multicast only single", "ff02::/16": "of multicast only single", "2001::/32": "of a tunnel to IPv4 only single",
		"64:ff9b::a00:0/104": "of a private network only single", "2002:a00::/24": "of a private network only single",
		"10.0.0.5:3128": "", "10.0.0.0/8": "", "0.0.0.0/0": "", "::/0": "", "224.0.0.251:5353": "", "169.254.169.254": "", "169.254.0.0/16": "",
		"64:ff9b::7f00:1": "", "64:ff9b::/96": "", "2002:808::/32": "", "8.8.8.0/24": "", "a.example": "", "host.smolvm.internal:80": "",
	} {
		r := rules(t, text)[0]
		err := r.Opens()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if r.name != "" || strings.Contains(want, "itself") {
			continue
		}
		opens := false
		for _, a := range []netip.Addr{r.prefix.Addr(), lastOf(r.prefix), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("64:ff9b::808:808")} {
			opens = opens || r.prefix.Contains(a) && Policy{Mode: Restricted, Allow: []Rule{r}}.Decide(Connection{Protocol: TCP, To: netip.AddrPortFrom(a, max(r.from, 1))}).Allowed
		}
		if opens != (err == nil) {
			t.Errorf("%s opens something: %v, and is said to: %v", text, opens, err)
		}
	}
}

func TestRulesThatCloseNothing(t *testing.T) {
	gateway := netip.MustParseAddr("10.0.2.2")
	for text, want := range map[string]string{
		"127.0.0.1": "reaches itself", "127.0.0.0/8": "reaches itself", "[::1]:80": "reaches itself",
		"10.0.2.2": "stands for this computer", "10.0.2.2:80": "stands for this computer",
		"10.0.2.0/24": "", "10.0.0.0/8": "", "10.0.2.4": "", "224.0.0.0/4": "", "0.0.0.0/0": "", "*.smolvm.internal": "", "host.smolvm.internal:80": "",
	} {
		if err := rules(t, text)[0].Closes(gateway); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

func TestRulesThatChangeNothingYet(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		rule   string
		lifted bool
		want   string
	}{
		{Policy{Mode: Off}, "a.example", false, "is off"},
		{Policy{}, "nas.example", false, "by its number"},
		{Policy{}, "*.example", true, ""},
		{Policy{Mode: Off}, "a.example", true, "is off"},
		{Policy{Deny: rules(t, "*.example")}, "a.example", true, `"*.example" denies it`},
		{Policy{}, "10.0.0.5", false, ""},
		{Policy{}, "host.smolvm.internal:80", false, ""},
		{Policy{Mode: Restricted}, "a.example", false, ""},
		{Policy{Mode: Restricted, Deny: rules(t, "*.example")}, "a.example:443", false, `"*.example" denies it`},
		{Policy{Mode: Restricted, Deny: rules(t, "*.example")}, "*.a.example", false, `"*.example" denies it`},
		{Policy{Mode: Restricted, Deny: rules(t, "*.a.example")}, "*.example", false, ""},
		{Policy{Mode: Restricted, Deny: rules(t, "a.example:80-90")}, "a.example:80", false, `denies it`},
		{Policy{Mode: Restricted, Deny: rules(t, "a.example:80-90")}, "a.example", false, ""},
		{Policy{Deny: rules(t, "10.0.0.0/8")}, "10.1.0.0/16:80", false, `"10.0.0.0/8" denies it`},
		{Policy{Deny: rules(t, "10.0.0.0/8")}, "11.0.0.1", false, ""},
	} {
		r := rules(t, c.rule)[0]
		if got := c.policy.Idle(r, c.lifted); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v, %s: %q, want %q", c.policy, c.rule, got, c.want)
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
		{"denied name", denied, TCP, "203.0.113.9:80", "bad.example", false, false, "bad.example"},
		{"denied address", denied, TCP, "203.0.113.9:25", "", false, false, "203.0.113.0/24:25"},
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
		{"restricted, datagrams to any port of a name", tight, UDP, "203.0.113.1:8443", "a.cdn.example", false, false, "a.cdn.example:8443"},
		{"restricted, ping", tight, Echo, "203.0.113.1:0", "api.example", false, false, "api.example"},
		{"restricted, ping of all ports", tight, Echo, "203.0.113.1:0", "a.cdn.example", false, true, ""},
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
}

func TestWhereAddressesLead(t *testing.T) {
	for text, want := range map[string]string{
		"64:ff9b::cb00:7101": "203.0.113.1", "2002:cb00:7101::5": "203.0.113.1", "::ffff:203.0.113.1": "203.0.113.1", "2001:db8::1": "2001:db8::1",
	} {
		if got := Leads(netip.MustParseAddr(text)); got.String() != want {
			t.Errorf("%s leads to %s, want %s", text, got, want)
		}
	}
}

// TestToldNames judges the names that connections tell, as strictly as each is looked at.
func TestToldNames(t *testing.T) {
	tight := Policy{Mode: Restricted, Allow: rules(t, "api.example:443", "*.cdn.example", "git.example:22", "203.0.113.9:443"), Deny: rules(t, "no.cdn.example")}
	for _, c := range []struct {
		look    Look
		name    string
		port    uint16
		allowed bool
		opaque  bool
	}{
		{Needed, "API.example.", 443, true, false},
		{Needed, "api.example", 80, false, false},
		{Needed, "evil.example", 443, false, false},
		{Needed, "evil.example\x00.cdn.example", 443, false, false},
		{Needed, "evil.example/.cdn.example", 443, false, false},
		{Needed, "", 443, false, false},
		{Needed, "git.example", 22, true, true},
		{Needed, "a.cdn.example", 22, true, false}, // of no port in particular
		{Needed, "no.cdn.example", 443, false, false},
		{Needed, "203.0.113.9", 443, true, true},
		{Needed, "203.0.113.9", 80, false, false},
		{Needed, "169.254.169.254", 80, false, false},
		{Denied, "evil.example", 443, true, true},
		{Denied, "no.cdn.example", 443, false, false},
		{Proxied, "NO.cdn.example.", 443, false, false},
	} {
		v := tight.Says(c.look, c.name, c.port)
		if v.Allowed != c.allowed || v.Opaque != c.opaque || v.Allowed == (v.Reason != "") {
			t.Errorf("look %d at %q, port %d: %+v", c.look, c.name, c.port, v)
		}
		if r, err := ParseRule(v.Rule); v.Rule != "" && (err != nil || !tight.Allowing(r).Says(c.look, c.name, c.port).Allowed) {
			t.Errorf("%q: what is suggested does not help: %q, %v", c.name, v.Rule, err)
		}
	}
	if deny := (Policy{Deny: rules(t, "203.0.113.0/24")}); deny.Says(Denied, "203.0.113.4", 80).Allowed || deny.Watches() {
		t.Error("a denied address may be asked of a proxy, or makes names watched")
	}
	if !(Policy{}).Says(Needed, "any.example", 443).Allowed {
		t.Error("an open network still wants a name to be allowed")
	}
	if !tight.Watches() || !(Policy{Deny: rules(t, "bad.example")}).Watches() || (Policy{}).Watches() {
		t.Error("it is not told where names decide")
	}
}

// TestBroadRulesOpenNothingClosed allows ranges that closed places lie in: only those
// that lie in a closed place open what they name of it, and never what is never more
// than one address.
func TestBroadRulesOpenNothingClosed(t *testing.T) {
	for _, c := range []struct {
		rule, to string
		own      bool
		allowed  bool
	}{
		{"0.0.0.0/0", "203.0.113.1:443", false, true},
		{"0.0.0.0/0", "203.0.113.1:443", true, false},
		{"203.0.113.0/24", "203.0.113.1:443", true, false},
		{"203.0.113.1", "203.0.113.1:443", true, true},
		{"0.0.0.0/0", "10.0.0.1:80", false, false},
		{"8.0.0.0/5", "10.0.0.1:80", false, false},
		{"10.0.0.0/8", "10.0.0.1:80", false, true},
		{"10.0.0.0/24", "10.0.0.1:80", false, true},
		{"0.0.0.0/0", "169.254.169.254:80", false, false},
		{"169.254.0.0/16", "169.254.169.254:80", false, false},
		{"169.254.0.0/16", "169.254.1.1:80", false, true},
		{"169.254.169.254:80", "169.254.169.254:80", false, true},
		{"100.64.0.0/10", "100.100.100.200:80", false, false},
		{"127.0.0.0/8", "127.0.0.1:80", false, false},
		{"127.0.0.0/24", "127.0.0.1:80", false, false},
		{"127.0.0.1", "127.0.0.1:80", false, true},
		{"224.0.0.0/4", "224.0.0.251:5353", false, false},
		{"255.255.255.0/24", "255.255.255.255:67", false, false},
		{"::/0", "[2001:db8::1]:80", false, true},
		{"::/0", "[fd00:ec2::254]:80", false, false},
		{"fd00::/8", "[fd00:ec2::254]:80", false, false},
		{"fd00::/8", "[fd00::1]:80", false, true},
		{"::/0", "[::1]:80", false, false},
		{"::/0", "[fe80::1]:80", false, false},
		{"::/0", "[ff02::1]:80", false, false},
		{"::/0", "[64:ff9b::a00:1]:80", false, false},
		{"64:ff9b::/96", "[64:ff9b::a00:1]:80", false, false},
		{"64:ff9b::a00:1", "[64:ff9b::a00:1]:80", false, true},
		{"64:ff9b::/96", "[64:ff9b::808:808]:80", false, true},
		{"2002::/16", "[2002:a9fe:a9fe::]:80", false, false},
		{"0.0.0.0/0", "[::ffff:10.0.0.1]:80", false, false},
	} {
		for _, mode := range []Mode{Open, Restricted} {
			p := Policy{Mode: mode, Allow: rules(t, c.rule)}
			if v := p.Decide(Connection{Protocol: TCP, To: netip.MustParseAddrPort(c.to), Own: c.own}); v.Allowed != c.allowed {
				t.Errorf("%s: %s lets %s: %+v", mode, c.rule, c.to, v)
			}
		}
	}
}

// TestLooks says how closely connections are looked at.
func TestLooks(t *testing.T) {
	tight := Policy{Mode: Restricted, Allow: rules(t, "api.example", "git.example:22", "10.0.0.5:3128")}
	denies := Policy{Deny: rules(t, "bad.example:443", "203.0.113.77"), Allow: rules(t, "10.0.0.5:3128")}
	for _, c := range []struct {
		policy Policy
		to     string
		name   string
		look   Look
		opaque bool
	}{
		{Policy{}, "203.0.113.1:443", "", Blind, true},
		{denies, "203.0.113.1:443", "", Denied, true},
		{denies, "203.0.113.1:80", "", Blind, true},
		{denies, "10.0.0.5:3128", "", Blind, true},
		{tight, "203.0.113.1:443", "api.example", Needed, false},
		{tight, "203.0.113.1:22", "api.example", Needed, false},
		{tight, "203.0.113.1:22", "git.example", Needed, true},
		{tight, "10.0.0.5:3128", "", Proxied, true},
	} {
		conn := Connection{Protocol: TCP, To: netip.MustParseAddrPort(c.to)}
		if c.name != "" {
			conn.Names = []string{c.name}
		}
		if v := c.policy.Decide(conn); !v.Allowed || v.Look != c.look || v.Opaque != c.opaque {
			t.Errorf("%s %s: %+v", c.to, c.name, v)
		}
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

// TestDenialsSayWhatLiftsThem: a refusal names the rule that denies it, which lifts
// the denial where it is allowed; none where it may not be allowed.
func TestDenialsSayWhatLiftsThem(t *testing.T) {
	to := func(p Policy, to string) Verdict {
		return p.Decide(Connection{Protocol: TCP, To: netip.MustParseAddrPort(to)})
	}
	for _, c := range []struct {
		deny  string
		judge func(Policy) Verdict
		rule  string
	}{
		{"*.smolvm.internal", func(p Policy) Verdict { return p.Host(45678) }, "*.smolvm.internal"},
		{"host.smolvm.internal:45678", func(p Policy) Verdict { return p.Host(45678) }, "host.smolvm.internal:45678"},
		{"*.example", func(p Policy) Verdict { return p.Resolve("a.example") }, "*.example"},
		{"*.example:443", func(p Policy) Verdict { return p.Says(Denied, "a.example", 443) }, "*.example:443"},
		{"203.0.113.0/24", func(p Policy) Verdict { return to(p, "203.0.113.1:80") }, "203.0.113.0/24"},
		{"224.0.0.0/4", func(p Policy) Verdict { return to(p, "224.0.0.251:5353") }, ""},
	} {
		p := Policy{Allow: []Rule{HostPort(45678)}, Deny: rules(t, c.deny)}
		v := c.judge(p)
		if v.Allowed || v.Rule != c.rule || !strings.Contains(v.Reason, `the rule "`+c.deny+`" denies`) {
			t.Errorf("%s: %+v", c.deny, v)
		}
		if c.rule != "" && !c.judge(p.Allowing(rules(t, c.rule)...)).Allowed {
			t.Errorf("%s: what is suggested does not lift it", c.deny)
		}
	}
}

func TestWhatIsOffSaysHowItIsOpened(t *testing.T) {
	off := Policy{Mode: Off, Allow: []Rule{HostPort(80)}}
	for _, v := range []Verdict{
		off.Host(80), off.Resolve("a.example"), off.Decide(Connection{Protocol: TCP, To: netip.MustParseAddrPort("203.0.113.1:80")}),
	} {
		if v.Allowed || v.Mode != Open || v.Rule != "" {
			t.Errorf("%+v", v)
		}
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
