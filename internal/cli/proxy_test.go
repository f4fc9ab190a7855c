package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
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

// TestBuildBlamesAClosedProxy: what an installer says of a network that it cannot
// reach does not tell that its proxy is closed to it.
func TestBuildBlamesAClosedProxy(t *testing.T) {
	unreached := fault.New(fault.Network, "Try again later.", "build the image: the package index did not answer")
	for _, c := range []struct {
		proxy  string
		allow  []string
		failed error
		says   string // empty: what failed, and nothing else
		hint   string
	}{
		{"http://10.1.2.3:3128", nil, unreached, "proxy http://10.1.2.3:3128 is closed to the sandbox that builds", "Add --allow 10.1.2.3:3128."},
		{"http://10.1.2.3:3128", []string{"10.1.2.3:3128"}, unreached, "", "Try again later."},
		{"http://127.0.0.1:3128", nil, unreached, "--allow-host 3128", "Try again later."},
		{"http://10.1.2.3:3128", nil, fault.New(fault.Build, "Mend it.", "the recipe failed"), "", "Mend it."},
		{"", nil, unreached, "", "Try again later."},
	} {
		w := newWorld(t)
		w.environ = map[string]string{"https_proxy": c.proxy}
		policy, err := networkOptions{Mode: "restricted", Allow: c.allow}.policy(preset.Preset{})
		if err != nil {
			t.Fatal(err)
		}
		got := w.app.blameProxy(t.Context(), c.failed, buildPolicy(policy))
		if !errors.Is(got, c.failed) || !strings.Contains(got.Error(), c.says) || c.says == "" && got != c.failed || fault.HintOf(got) != c.hint || fault.CodeOf(got) != fault.CodeOf(c.failed) {
			t.Errorf("%q, allowed %v: %v (%s)", c.proxy, c.allow, got, fault.HintOf(got))
		}
	}
}
