package egress

import (
	"net/netip"
	"testing"
)

// FuzzRule reads rules as users write them: what is taken is written and read again
// as the same, and opens nothing but by naming it.
func FuzzRule(f *testing.F) {
	for _, seed := range []string{
		"api.example.com:443", "*.example.com", "10.0.0.5:3128", "[fd12::/16]:443", "10.0.0.0/8:1-1024", "::1", "host.smolvm.internal:80",
		"0.0.0.0/0", "::/0", "[::ffff:10.0.0.5]:80", "fe80::1%eth0", "a..b", "*", "1.2.3", "[::]:0",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again != r {
			t.Fatalf("%q is written as %q, which is %q, %v", text, r, again, err)
		}
		if r == (Rule{}) || r.from > r.to {
			t.Fatalf("%q matches nothing", text)
		}
		p := Policy{Mode: Restricted, Allow: []Rule{r}}
		private := netip.MustParseAddrPort("192.168.77.5:80")
		if v := p.Decide(Connection{Protocol: TCP, To: private, Names: []string{r.name}}); v.Allowed && r.name != "" {
			t.Fatalf("%q opens %s by its name", text, private)
		}
		if p.Denying(r).Decide(Connection{Protocol: TCP, To: private}).Allowed {
			t.Fatalf("%q is denied and allowed", text)
		}
	})
}
