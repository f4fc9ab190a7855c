package preset

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// tokenPlace is where a page's address has the token.
const tokenPlace = "{token}"

// Page is what a preset shows in a browser.
type Page struct {
	Port int    `toml:"port" json:"port"` // one of the preset's ports
	Path string `toml:"path" json:"path"` // with {token} where the token belongs, if there is one
	// Token prints what lets a browser in, one line. It is run in the sandbox, with the
	// variables that the agent gets.
	Token []string `toml:"token" json:"token,omitempty"`
}

func (p *Page) check(ports []int) error {
	if p == nil {
		return nil
	}
	if !slices.Contains(ports, p.Port) {
		return fmt.Errorf("port: %d is not one of the preset's ports", p.Port)
	}
	if err := checkOptionalCommand(p.Token); err != nil {
		return within("token", err)
	}
	u, err := url.Parse(strings.ReplaceAll(p.Path, tokenPlace, "token"))
	switch {
	case err != nil || !strings.HasPrefix(p.Path, "/") || u.Host != "" || len(p.Path) > maxText || strings.ContainsFunc(p.Path, notInRequest):
		return fmt.Errorf("path: %.40q is not a path such as /#token={token}", p.Path)
	case strings.Contains(p.Path, tokenPlace) != (len(p.Token) > 0):
		return errors.New("path: it has {token} where there is a token, and only there")
	}
	return nil
}

// Address is the page's on this computer, where its port is on host.
func (p *Page) Address(host, token string) string {
	return "http://" + host + strings.ReplaceAll(p.Path, tokenPlace, url.QueryEscape(token))
}
