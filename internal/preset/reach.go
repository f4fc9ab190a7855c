package preset

import "fmt"

// CommonReach are the rules that every agent has where the network is
// restricted: the registries and forges that work on code needs.
var CommonReach = []string{
	"registry.npmjs.org:443", "registry.yarnpkg.com:443",
	"pypi.org:443", "files.pythonhosted.org:443",
	"index.crates.io:443", "static.crates.io:443", "crates.io:443",
	"proxy.golang.org:443", "sum.golang.org:443",
	"deb.debian.org:80", "deb.debian.org:443", "security.debian.org:80",
	"github.com:443", "github.com:22", "api.github.com:443", "codeload.github.com:443", "*.githubusercontent.com:443",
	"gitlab.com:443", "gitlab.com:22", "bitbucket.org:443", "bitbucket.org:22",
}

// maxRule bounds one rule in bytes: a name and its ports.
const maxRule = 270

// checkReaches looks at the form only: what a rule means is the egress room's.
func checkReaches(rules []string) error {
	if len(rules) > maxList {
		return fmt.Errorf("%d rules are more than %d", len(rules), maxList)
	}
	for _, r := range rules {
		if err := checkLine(r); err != nil {
			return err
		}
		if len(r) > maxRule {
			return fmt.Errorf("rule %.40q is longer than %d bytes", r, maxRule)
		}
	}
	return nil
}
