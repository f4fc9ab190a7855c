package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// maxKept bounds all secrets that are kept for one sandbox, in bytes.
const maxKept = 64 << 10

// standing is what of a sandbox decides whether credentials can be kept from it.
type standing struct {
	network    bool // it has one, in which a placeholder can be replaced
	policy     egress.Policy
	runs       bool     // what is kept was decided at its start
	remembered []string // the sources of its last start
}

// keep takes from the gift what the sandbox needs only a placeholder for: what
// --credential names, and of the user's list what a rule of the preset is for.
func (a *App) keep(c config.Config, g *gift, p preset.Preset, named []source, values map[string]string, st standing) error {
	if len(named) > 0 && !st.network {
		return refuse("Start a sandbox whose network is not off, or give it by -e.",
			"--credential: the sandbox has no network in which a placeholder could be replaced")
	}
	for _, s := range named {
		g.take(s.name)
		rules, err := a.rulesFor(c, st.policy, g.credentials.Env, p.CredentialRules(s.name))
		if err != nil {
			return refuse("Give it by -e "+s.name+" where the sandbox may see it.", "--credential %s: %w", s.name, err)
		}
		g.hold(p, s.name, values[s.name], rules)
		g.sources = append(g.sources, s.String())
	}
	for _, name := range slices.Clone(g.listed) {
		if err := a.keepListed(c, g, p, name, st); err != nil {
			return err
		}
	}
	total := 0
	for _, s := range g.secrets {
		total += len(s.Value)
	}
	if total > maxKept {
		return refuse("Give fewer.", "credentials that are kept from the sandbox take %d bytes, at most %d are possible", total, maxKept)
	}
	return nil
}

// keepListed keeps a variable of the user's list where that works.
func (a *App) keepListed(c config.Config, g *gift, p preset.Preset, name string, st standing) error {
	value, given := g.credentials.Env[name]
	if !given || !keeps(c, p, name, st) || escrow.Check(value) != nil {
		return nil
	}
	rules, err := a.rulesFor(c, st.policy, g.credentials.Env, p.CredentialRules(name))
	if err != nil {
		a.notice("%s goes into the sandbox itself: %v.", name, err)
		return nil
	}
	g.take(name)
	if st.runs {
		a.notice("%s stays as it was when the sandbox was started.", name)
		return nil
	}
	g.hold(p, name, value, rules)
	return nil
}

// keeps tells whether a variable of the list is kept from a sandbox.
func keeps(c config.Config, p preset.Preset, name string, st standing) bool {
	return st.network && c.On("credential_proxy", p.Name) && len(p.CredentialRules(name)) > 0
}

// take takes a variable out of what the agent gets.
func (g *gift) take(name string) {
	delete(g.credentials.Env, name)
	g.names = slices.DeleteFunc(g.names, func(n string) bool { return n == name })
}

// hold notes a secret for the supervisor.
func (g *gift) hold(p preset.Preset, name, value string, rules []escrow.Rule) {
	g.secrets = append(g.secrets, escrow.Secret{Name: name, Value: value, Prefix: p.CredentialRules(name)[0].Prefix, Rules: rules})
}

// rulesFor are the rules with the hosts that the agent will really use.
func (a *App) rulesFor(c config.Config, policy egress.Policy, env map[string]string, rules []preset.Credential) ([]escrow.Rule, error) {
	for name := range c.SessionEnv(policy) {
		if lower := strings.ToLower(name); lower == "https_proxy" || lower == "all_proxy" {
			return nil, fmt.Errorf("%s has programs in the sandbox use a proxy, through which a placeholder cannot be replaced", name)
		}
	}
	var all []escrow.Rule
	for _, rule := range rules {
		host, port, err := rule.HostPort()
		if address := env[rule.Address]; rule.Address != "" && address != "" {
			host, port, err = hostOf(address)
			err = explainAddress(rule.Address, err)
		}
		if err != nil {
			return nil, err
		}
		made := escrow.Rule{Host: host, Port: port, Header: rule.Header, Field: rule.Field}
		if !slices.Contains(all, made) {
			all = append(all, made)
		}
	}
	return all, nil
}

func explainAddress(variable string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s has the agent use %w", variable, err)
}

// hostOf is the host of an address that an agent was told to use.
func hostOf(address string) (host string, port uint16, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" {
		return "", 0, errors.New("what is no https:// address")
	}
	if host, port, err = preset.SplitHost(u.Host); err != nil {
		return "", 0, errors.New("an address whose host has no name")
	}
	return host, port, nil
}

// into adds the gift to what a sandbox is started with.
func (g gift) into(o sandbox.StartOptions) sandbox.StartOptions {
	o.Credentials, o.Secrets, o.Sources = &g.credentials, g.secrets, g.sources
	return o
}

// keptView is a credential that is kept from a sandbox, in JSON.
type keptView struct {
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"` // that get it
}

func (g gift) kept() []keptView {
	all := []keptView{}
	for _, s := range g.secrets {
		hosts := map[string]bool{}
		for _, rule := range s.Rules {
			hosts[rule.Place()] = true
		}
		all = append(all, keptView{s.Name, slices.Sorted(maps.Keys(hosts))})
	}
	return all
}

func keptText(all []keptView) string {
	var parts []string
	for _, k := range all {
		parts = append(parts, k.Name+" for "+strings.Join(k.Hosts, " and "))
	}
	return strings.Join(parts, ", ")
}

// refuseRunning refuses what only holds for a start.
func refuseRunning(o giveOptions, name string) error {
	flag := "--no-credentials"
	if len(o.Credentials) > 0 {
		flag = "--credential"
	}
	if !o.NoCredentials && len(o.Credentials) == 0 {
		return nil
	}
	return fault.New(fault.Usage, "Stop it first: smolvm stop "+name+".", "%s holds for a start, but %s runs with what it was given", flag, name)
}
