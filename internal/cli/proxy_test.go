package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/egress"
)

func TestClosedProxies(t *testing.T) {
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("198.51.100.1") }
	addresses := func(_ context.Context, name string) ([]netip.Addr, error) {
		switch name {
		case "proxy.corp":
			return []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}, nil
		case "proxy.example":
			return []netip.Addr{netip.MustParseAddr("203.0.113.5")}, nil
		}
		return nil, errors.New("no such name")
	}
	rule := func(text string) egress.Rule {
		r, err := egress.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	tight := egress.Policy{Mode: egress.Restricted}
	for i, test := range []struct {
		value  string
		policy egress.Policy
		flag   string // empty: it is reached, or nothing is known
	}{
		{"http://10.0.0.5:3128", egress.Policy{}, "--allow 10.0.0.5:3128"},
		{"http://10.0.0.5:3128", egress.Policy{}.Allowing(rule("10.0.0.5:3128")), ""},
		{"http://10.0.0.5:3128", egress.Policy{Mode: egress.Off}, ""},
		{"10.0.0.5", egress.Policy{}, "--allow 10.0.0.5:80"},
		{"socks5://[fd00::5]", egress.Policy{}, "--allow [fd00::5]:1080"},
		{"http://proxy.corp:8080", egress.Policy{}, "--allow 10.0.0.5:8080"},
		{"http://proxy.corp:8080", egress.Policy{}.Allowing(rule("fd00::5")), ""},
		{"http://198.51.100.1:3128", egress.Policy{}, "--allow 198.51.100.1:3128"},
		{"http://proxy.example:3128", egress.Policy{}, ""},
		{"http://proxy.example:3128", tight, "--allow proxy.example:3128"},
		{"http://proxy.example:3128", tight.Allowing(rule("proxy.example:3128")), ""},
		{"http://unknown.example:3128", egress.Policy{}, ""},
		{"http://host.smolvm.internal:3128", egress.Policy{}, ""},
	} {
		p, closed := judgeProxy(t.Context(), test.value, test.policy, own, addresses)
		if p.flag != test.flag || closed != (test.flag != "") || closed && !strings.Contains(fmt.Sprint(p), "start it with "+test.flag+".") {
			t.Errorf("%d: %s: %+v, %t", i, test.value, p, closed)
		}
	}
}
