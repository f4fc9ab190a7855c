package preset

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Login is a file in which the agent keeps who it is logged in as.
type Login struct {
	File string `toml:"file" json:"file"` // below the home folder, here and in the sandbox
}

// private are folders whose contents are no login of an agent and never passed on.
var private = []string{".ssh", ".gnupg", ".smolvm"}

// CheckLogin accepts the path of a login file below the home folder.
func CheckLogin(file string) error {
	switch {
	case !fs.ValidPath(file) || path.Clean(file) != file || file == "." || len(file) > maxText || !plainText(file) || strings.ContainsFunc(file, unprintable):
		return fmt.Errorf("%.80q is not a clean path below the home folder", file)
	case slices.Contains(private, strings.Split(file, "/")[0]):
		return errors.New("nothing of ~/" + strings.Split(file, "/")[0] + " is ever passed to a sandbox")
	}
	return nil
}

func checkLogins(logins []Login) error {
	var errs []error
	var files []string
	for i, l := range logins {
		errs = append(errs, within(fmt.Sprintf("login %d", i+1), CheckLogin(l.File)))
		files = append(files, l.File)
	}
	return errors.Join(append(errs, distinct(files))...)
}
