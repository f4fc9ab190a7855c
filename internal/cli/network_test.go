package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/sandbox"
)

func TestNetworkCommand(t *testing.T) {
	for line, want := range map[string]struct {
		status int
		errs   string
	}{
		"network box allow api.example:443 10.0.0.5:3128": {0, "box: open: the internet, nothing of this computer or its networks; allowed api.example:443, 10.0.0.5:3128"},
		"network off deny evil.example":                   {0, "denied evil.example"},
		"network box restricted":                          {0, "box: restricted to what is allowed; allowed "},
		"network box off":                                 {0, "box: off"},
		"network box allow 127.0.0.1:3128":                {2, "opened as host.smolvm.internal:PORT"},
		"network box allow 10.0.0.5":                      {0, "allowed 10.0.0.5"},
		"network box allow nas.example":                   {0, "Allowing nas.example changes nothing yet: the network is open"},
		"network box rate 2M":                             {0, "; at most 2.0 MiB a second each way"},
		"network off rate none":                           {0, "off: open: the internet, nothing of this computer or its networks\n"},
		"network box rate 2":                              {2, "has no unit"},
		"network box rate 0":                              {2, "none lifts the limit"},
		"network box rate 0M":                             {2, "none lifts the limit"},
		"network box rate 1T":                             {0, "; at most 1.0 TiB a second each way"},
		"network box rate 2T":                             {2, "more than any network has"},
		"network box deny 127.0.0.1":                      {2, "closed as host.smolvm.internal:PORT"},
		"network box deny 10.0.2.2":                       {2, "stands for this computer"},
		"network box deny fd5a:6d6f:6c76::2":              {2, "stands for this computer"},
		"network box deny 10.0.0.0/8":                     {0, "denied 10.0.0.0/8"},
		"network box rate 1K":                             {2, "too little to work with"},
		"network box rate":                                {2, "0 rates are given"},
		"network box allow":                               {2, "no rule is given"},
		"network box allow a..b":                          {2, "neither a name nor an address"},
		"network box closed":                              {2, `unexpected word "closed"`},
		"network box open wide":                           {2, `unexpected word "wide"`},
		"network none":                                    {3, "no sandbox"},
		"network card allow a.example":                    {4, "has no network"},
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		w.add("off", sandbox.Stopped)
		w.add("card", sandbox.Stopped)
		s := w.boxes["card"]
		s.Network = false
		w.boxes["card"] = s
		if status := w.app.Main(strings.Fields(line)); status != want.status || !strings.Contains(w.errs.String(), want.errs) {
			t.Errorf("%s: status %d, %s", line, status, &w.errs)
		}
	}
}

// TestAllowThatLiftsADenialChangesSomething in an open network too, where a name else
// does not; not where another rule denies the same.
func TestAllowThatLiftsADenialChangesSomething(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	for _, c := range []struct{ line, errs string }{
		{"network box deny *.com", "denied *.com"},
		{"network box allow *.com", "box: open: the internet, nothing of this computer or its networks; allowed *.com\n"},
		{"network box allow *.com", "Allowing *.com changes nothing yet: the network is open"},
		{"network box deny *.com a.com", "denied *.com, a.com"},
		{"network box allow a.com", `Allowing a.com changes nothing yet: the rule "*.com" denies it`},
	} {
		w.errs.Reset()
		status := w.app.Main(strings.Fields(c.line))
		got := w.errs.String()
		if status != 0 || !strings.Contains(got, c.errs) || strings.Contains(got, "nothing yet") != strings.Contains(c.errs, "nothing yet") {
			t.Errorf("%s: status %d, %s", c.line, status, got)
		}
	}
}

// TestRestrictedStartHasItsAgentsRules gives each preset what its agent needs.
func TestRestrictedStartHasItsAgentsRules(t *testing.T) {
	w := newWorld(t)
	if status := w.app.Main(strings.Fields("claude start --network restricted --allow extra.example:8443 --allow-host 8080")); status != 0 {
		t.Fatalf("status %d: %s", status, &w.errs)
	}
	p := w.created[0].Egress
	if p.Kind() != egress.Restricted || !p.Resolve("registry.npmjs.org").Allowed || !p.Says(egress.Needed, "extra.example", 8443).Allowed || !p.Host(8080).Allowed {
		t.Errorf("%+v", p)
	}
	if p.Resolve("elsewhere.example").Allowed {
		t.Error("a restricted network resolves any name")
	}
}

func TestNetworkFlagsAreRefused(t *testing.T) {
	for line, want := range map[string]string{
		"claude start --network closed":                 `no network mode "closed"`,
		"claude start --allow http://a.example":         "neither a port",
		"claude start --allow-host 0":                   "is no port",
		"claude start --allow-host 127.0.0.1":           "is no port",
		"claude start --network off --allow a.example":  "excludes",
		"claude start --allow host.smolvm.internal":     "by its number",
		"claude start --network off --allow-host 8080":  "excludes",
		"claude start --network-rate fast":              "not a whole number",
		"claude start --network-rate 2":                 "none lifts the limit",
		"claude start --network-rate 4T":                "more than any network has",
		"claude start --network off --network-rate 2M":  "excludes",
		"claude start --allow 127.0.0.0/8":              "there a sandbox reaches itself",
		"claude start --allow 224.0.0.0/4":              "only single addresses",
		"claude start --allow 10.0.0.0/8:99999":         "neither a port",
		"claude start --allow fe80::1%eth0 --no-attach": "neither a name nor an address",
	} {
		w := newWorld(t)
		if status := w.app.Main(strings.Fields(line)); !strings.Contains(w.errs.String(), want) || status == 0 || len(w.log) > 0 {
			t.Errorf("%s: status %d, did %v: %s", line, status, w.log, &w.errs)
		}
	}
}

func TestEveryPresetsReachIsMadeOfRules(t *testing.T) {
	w := newWorld(t)
	all, err := w.app.AllPresets()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if rules, err := reachOf(p); err != nil || len(rules) == 0 {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

// TestRecordNamesANewFile refuses files and links that are there, before anything begins.
func TestRecordNamesANewFile(t *testing.T) {
	w := newWorld(t)
	w.add("on", sandbox.Running)
	w.add("off", sandbox.Stopped)
	w.app.Directory = t.TempDir()
	write(t, filepath.Join(w.app.Directory, "old.pcap"), "x", os.O_TRUNC)
	if err := os.Symlink("elsewhere", filepath.Join(w.app.Directory, "link.pcap")); err != nil {
		t.Fatal(err)
	}
	for line, errs := range map[string]string{
		"claude start --record old.pcap":      "is there already",
		"start --record link.pcap off":        "is there already",
		"claude start --record none/new.pcap": "there is no folder",
		"start --record new.pcap on":          "runs already",
	} {
		w.errs.Reset()
		if status := w.app.Main(strings.Fields(line)); status == 0 || !strings.Contains(w.errs.String(), errs) || len(w.log) > 0 {
			t.Errorf("%s: status %d, did %v: %s", line, status, w.log, &w.errs)
		}
	}
	if status := w.app.Main(strings.Fields("start --record new.pcap off")); status != 0 || w.order.Capture != filepath.Join(w.app.Directory, "new.pcap") {
		t.Errorf("status %d, recorded in %q: %s", status, w.order.Capture, &w.errs)
	}
}
