package cage

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/smolvm/smolvm/internal/fault"
)

// TestForbidden: each way in which systems forbid cages has its own fix.
func TestForbidden(t *testing.T) {
	for setting, want := range map[string]string{
		"user/max_user_namespaces=0":                     "user.max_user_namespaces=15000",
		"kernel/unprivileged_userns_clone=0":             "kernel.unprivileged_userns_clone=1",
		"kernel/apparmor_restrict_unprivileged_userns=1": "profile smolvm /usr/bin/smolvm",
		"kernel/apparmor_restrict_unprivileged_userns=0": "seccomp",
		"user/max_user_namespaces=15000":                 "seccomp",
	} {
		name, value, _ := strings.Cut(setting, "=")
		root := fstest.MapFS{"proc/sys/" + name: {Data: []byte(value + "\n")}}
		err := Forbidden(root, "/usr/bin/smolvm", errors.New("operation not permitted"))
		var f *fault.Fault
		if !errors.As(err, &f) || f.Code != fault.Host || !strings.Contains(f.Hint, want) || !strings.Contains(err.Error(), "not permitted") {
			t.Errorf("%s: %v, %+v", setting, err, f)
		}
	}
}
