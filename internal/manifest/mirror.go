package manifest

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

const (
	maxMirrors = 16
	maxAddress = 500
)

func validateMirrors(mirrors []string) error {
	if len(mirrors) > maxMirrors {
		return fmt.Errorf("%d mirrors, at most %d are allowed", len(mirrors), maxMirrors)
	}
	seen := map[string]bool{}
	for _, mirror := range mirrors {
		if err := checkMirror(mirror); err != nil {
			return fmt.Errorf("mirror %.80q: %w", mirror, err)
		}
		if key := strings.TrimSuffix(mirror, "/"); seen[key] {
			return fmt.Errorf("mirror %.80q appears twice", mirror)
		} else {
			seen[key] = true
		}
	}
	return nil
}

// checkMirror accepts the address of a folder that two readers understand alike:
// no credentials, nothing after the path, no escapes, no way up.
func checkMirror(text string) error {
	if len(text) > maxAddress || !isPrintable(text) || strings.ContainsAny(text, " \\%?#\"<>{}|^`") {
		return errors.New("it is long or holds characters that an address of a folder has not")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("it is not an address")
	case !slices.Contains([]string{"http", "https", "oci"}, u.Scheme):
		return errors.New("only http, https and oci are allowed")
	case u.Hostname() == "" || u.User != nil || u.Opaque != "":
		return errors.New("it has to name a server, without credentials")
	case u.Path != "" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") && u.Path != "/":
		return errors.New("its path is not a plain one")
	}
	return nil
}
