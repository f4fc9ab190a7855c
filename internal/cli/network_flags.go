package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// noNetwork is in place of a mode where the machine has no network card.
const noNetwork egress.Mode = "none"

// networkView is what a sandbox may reach, in JSON.
type networkView struct {
	Mode  egress.Mode   `json:"mode"`
	Allow []egress.Rule `json:"allow"`
	Deny  []egress.Rule `json:"deny"`
	Rate  int64         `json:"rate_per_second"` // bytes, in each direction; 0: any number
}

// networkOf is the policy of a sandbox; none without a network card.
func networkOf(there bool, p egress.Policy) networkView {
	if !there {
		return networkView{Mode: noNetwork, Allow: []egress.Rule{}, Deny: []egress.Rule{}}
	}
	return networkView{Mode: p.Kind(), Allow: append([]egress.Rule{}, p.Allow...), Deny: append([]egress.Rule{}, p.Deny...), Rate: p.Rate}
}

// text is the policy in a line.
func (v networkView) text() string {
	text := map[egress.Mode]string{
		egress.Open:       "open: the internet, nothing of this computer or its networks",
		egress.Restricted: "restricted to what is allowed",
		egress.Off:        "off",
		noNetwork:         "none",
	}[v.Mode]
	if v.Mode == egress.Off || v.Mode == noNetwork {
		return text
	}
	if len(v.Allow) > 0 {
		text += "; allowed " + ruleList(v.Allow)
	}
	if len(v.Deny) > 0 {
		text += "; denied " + ruleList(v.Deny)
	}
	if v.Rate > 0 {
		text += "; at most " + ui.Bytes(v.Rate) + " a second each way"
	}
	return text
}

// shownRules is how many rules a line shows.
const shownRules = 4

// ruleList leaves out the oldest rules of many: those are the preset's own.
func ruleList(all []egress.Rule) string {
	older := len(all) - shownRules
	if older < 2 {
		older = 0 // one takes no more room than to say that there is one
	}
	texts := make([]string, 0, shownRules+1)
	for _, r := range all[older:] {
		texts = append(texts, r.String())
	}
	if older > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", older))
	}
	return strings.Join(texts, ", ")
}

// networkOptions are what a start was asked for the network.
type networkOptions struct {
	Mode      string
	Allow     []string
	AllowHost []string
	Rate      string
}

func networkFlags(cmd *cobra.Command, o *networkOptions) {
	flags := cmd.Flags()
	flags.Var(wordFlag{&o.Mode}, "network", "`MODE` of the network: open (internet, nothing private), restricted (what is allowed), off (default open)")
	allowFlags(cmd, o, "the sandbox")
	flags.Var(wordFlag{&o.Rate}, "network-rate", "let at most `SIZE` a second pass in each direction, such as 2M (default none: as fast as it goes)")
}

// allowFlags are those by which something is opened, for whom is said.
func allowFlags(cmd *cobra.Command, o *networkOptions, whom string) {
	flags := cmd.Flags()
	flags.StringArrayVar(&o.Allow, "allow", nil, "let "+whom+" reach `RULE`: a name, *.name, address or range, each with :PORT; may be repeated")
	flags.StringArrayVar(&o.AllowHost, "allow-host", nil, "let "+whom+" reach `PORT` of this computer's loopback, as "+egress.HostName+"; may be repeated")
}

func (o networkOptions) given() bool {
	return o.Mode != "" || len(o.Allow)+len(o.AllowHost) > 0 || o.Rate != ""
}

// noRate is the word for a network that is as fast as it goes; slowestRate is what
// programs get along with, fastestRate is more than any network has.
const (
	noRate      = "none"
	slowestRate = 16 << 10
	fastestRate = 1 << 40
)

// parseRate reads how many bytes a second may pass.
func parseRate(what, text string) (int64, error) {
	if text == noRate {
		return 0, nil
	}
	hint := fmt.Sprintf("Write a number and a unit, such as 500K or 2M: the bytes of a second; %s lifts the limit.", noRate)
	n, err := config.ParseSize(text)
	switch {
	case err != nil:
		return 0, fault.New(fault.Usage, hint, "%s: %w", what, err)
	case n < slowestRate:
		return 0, fault.New(fault.Usage, hint, "%s: %s a second are too little to work with: programs would give up", what, ui.Bytes(n))
	case n > fastestRate:
		return 0, fault.New(fault.Usage, hint, "%s: %s a second are more than any network has", what, ui.Bytes(n))
	}
	return n, nil
}

// reachOf are the rules that an agent has where the network is restricted.
func reachOf(p preset.Preset) ([]egress.Rule, error) {
	return allowRules("preset "+p.Name, slices.Concat(p.Reaches, preset.CommonReach))
}

// policy is what the flags say for a preset.
func (o networkOptions) policy(preset preset.Preset) (egress.Policy, error) {
	mode, err := egress.ParseMode(o.Mode)
	if err != nil {
		return egress.Policy{}, fault.New(fault.Usage, "", "--network: %w", err)
	}
	p := egress.Policy{}
	if o.Mode != "" {
		p.Mode = mode
	}
	if mode == egress.Off && (len(o.Allow)+len(o.AllowHost) > 0 || o.Rate != "") {
		return p, refuse("Use --network restricted.", "--network off excludes --allow, --allow-host and --network-rate")
	}
	if o.Rate != "" {
		if p.Rate, err = parseRate("--network-rate", o.Rate); err != nil {
			return p, err
		}
	}
	rules, err := allowRules("--allow", o.Allow)
	if err != nil {
		return p, err
	}
	if mode == egress.Restricted {
		reach, err := reachOf(preset)
		if err != nil {
			return p, err
		}
		rules = append(reach, rules...)
	}
	for _, text := range o.AllowHost {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return p, refuse("Give a number from 1 to 65535.", "--allow-host %.40q is no port", text)
		}
		rules = append(rules, egress.HostPort(uint16(port)))
	}
	return p.Allowing(rules...), nil
}

// parseRules reads rules. One that is of no use, which useless says of it, is refused.
func parseRules(what string, texts []string, useless func(egress.Rule) error) ([]egress.Rule, error) {
	var rules []egress.Rule
	for _, text := range texts {
		r, err := egress.ParseRule(text)
		if err != nil {
			return nil, fault.New(fault.Usage, egress.RuleHint, "%s: %w", what, err)
		}
		rules = append(rules, r)
	}
	for _, r := range rules {
		if err := useless(r); err != nil {
			return nil, fault.New(fault.Usage, "", "%s: %w", what, err)
		}
	}
	return rules, nil
}

// allowRules reads rules that are to open something. One that never does is refused.
func allowRules(what string, texts []string) ([]egress.Rule, error) {
	return parseRules(what, texts, egress.Rule.Opens)
}

// denyRules reads rules that are to close something. One that never does is refused.
func denyRules(what string, texts []string) ([]egress.Rule, error) {
	return parseRules(what, texts, func(r egress.Rule) error { return r.Closes(wire.Gateway4.Addr(), wire.Gateway6.Addr()) })
}

// sayIdle says which of the rules that were just allowed change nothing yet. Some
// were denied before.
func (a *App) sayIdle(p egress.Policy, rules, denied []egress.Rule) {
	idle := map[string][]egress.Rule{}
	for _, r := range rules {
		if why := p.Idle(r, slices.Contains(denied, r)); why != "" {
			idle[why] = append(idle[why], r)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(idle)) {
		a.notice("Allowing %s changes nothing yet: %s.", ruleList(idle[why]), why)
	}
}
