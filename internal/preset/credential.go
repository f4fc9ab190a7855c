package preset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Credential is a rule by which a variable's value never enters a sandbox: the
// agent gets a placeholder, which is replaced by the value on the way to one host,
// in one header or field.
type Credential struct {
	Name string `toml:"name" json:"name"` // of the variable, one of Environment
	Host string `toml:"host" json:"host"` // NAME or NAME:PORT; 443 where it says none
	// Header or Field of the request has the value: one of the two.
	Header string `toml:"header" json:"header,omitempty"`
	Field  string `toml:"field" json:"field,omitempty"` // of a JSON object or a form
	// Prefix begins the placeholder, for agents that look at the form of a value.
	Prefix string `toml:"prefix" json:"prefix,omitempty"`
	// Address names a variable that has the agent use another address than Host's.
	Address string `toml:"address" json:"address,omitempty"`
}

const (
	// httpsPort is that of a host that names none.
	httpsPort = 443
	maxPrefix = 64 // bytes
	tokenText = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
)

// HostPort is the rule's host and port.
func (c Credential) HostPort() (host string, port uint16, err error) { return SplitHost(c.Host) }

// SplitHost reads NAME or NAME:PORT; the name is canonical then. An address is none:
// certificates are for names.
func SplitHost(text string) (host string, port uint16, err error) {
	host, number, found := strings.Cut(text, ":")
	host = strings.ToLower(host)
	if !isHost(host) {
		return "", 0, fmt.Errorf("%.80q is not the name of a host", text)
	}
	if !found {
		return host, httpsPort, nil
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%.80q has no port from 1 to 65535", text)
	}
	return host, uint16(n), nil
}

func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil || len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// CredentialRules are the rules for a variable.
func (p Preset) CredentialRules(name string) []Credential {
	var all []Credential
	for _, c := range p.Credentials {
		if c.Name == name {
			all = append(all, c)
		}
	}
	return all
}

func checkCredentials(all []Credential, environment []string) error {
	errs := []error{distinct(all)}
	prefixes := map[string]string{}
	for i, c := range all {
		errs = append(errs, within(fmt.Sprintf("credential %d", i+1), c.check(environment)))
		if have, ok := prefixes[c.Name]; ok && have != c.Prefix {
			errs = append(errs, fmt.Errorf("credential %d: prefix: %s has another one above", i+1, c.Name))
		}
		prefixes[c.Name] = c.Prefix
	}
	return errors.Join(errs...)
}

func (c Credential) check(environment []string) error {
	_, _, hostErr := c.HostPort()
	switch {
	case !slices.Contains(environment, c.Name):
		return fmt.Errorf("name: %.40q is not one of environment", c.Name)
	case hostErr != nil:
		return within("host", hostErr)
	case (c.Header == "") == (c.Field == ""):
		return errors.New("it has to have a header or a field, and not both")
	case strings.Trim(c.Header, tokenText+"-_") != "" || len(c.Header) > maxPrefix:
		return fmt.Errorf("header: %.40q is not the name of a header", c.Header)
	case c.Field != "" && (len(c.Field) > maxPrefix || !plainText(c.Field) || strings.ContainsFunc(c.Field, unprintable)):
		return fmt.Errorf("field: %.40q is not the name of a field", c.Field)
	case len(c.Prefix) > maxPrefix || strings.Trim(c.Prefix, tokenText+"-_.") != "":
		return fmt.Errorf("prefix: %.40q is longer than %d bytes or has characters that values do not have", c.Prefix, maxPrefix)
	case c.Address != "" && !isVariable(c.Address):
		return fmt.Errorf("address: %.40q is not the name of a variable", c.Address)
	}
	return nil
}
