package netstack

import (
	"slices"
	"testing"

	"github.com/smolvm/smolvm/internal/egress"
)

// TestRefusalsTellWhatAllows: the entry of a port of this computer that a denial
// closes names the rule that lifts it, and one of a network that is off the mode.
func TestRefusalsTellWhatAllows(t *testing.T) {
	const to = "10.0.2.2:45678"
	pattern := allow(t, egress.Open, "*.smolvm.internal").Allow
	for _, c := range []struct {
		policy egress.Policy
		want   Entry
	}{
		{
			egress.Policy{Allow: []egress.Rule{egress.HostPort(45678)}, Deny: pattern},
			Entry{Reason: `the rule "*.smolvm.internal" denies it`, Rule: "*.smolvm.internal"},
		},
		{egress.Policy{Mode: egress.Off}, Entry{Reason: "the sandbox's network is off", Mode: egress.Open}},
	} {
		g := newGuest(t, c.policy)
		if _, err := g.tcp(t, to); err == nil {
			t.Fatalf("%+v: is reached", c.policy)
		}
		all := g.network.Snapshot().Refusals
		if !slices.ContainsFunc(all, func(e Entry) bool {
			return e.To == to && e.Reason == c.want.Reason && e.Rule == c.want.Rule && e.Mode == c.want.Mode
		}) {
			t.Errorf("%+v: refusals %+v", c.policy, all)
		}
	}
}
