package manifest

import (
	"strconv"
	"strings"
)

// Supports reports whether a program of this version may use the document: at
// least MinVersion. A version that is not of the form [v]1.2.3[-suffix], such as
// that of a development build, always may.
func (m Manifest) Supports(version string) bool {
	least, ok := parseVersion(m.MinVersion)
	if !ok {
		return true
	}
	plain, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	have, ok := parseVersion(plain)
	if !ok {
		return true
	}
	for i := range have {
		if have[i] != least[i] {
			return have[i] > least[i]
		}
	}
	return true
}

func parseVersion(s string) (v [3]int, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != len(v) {
		return v, false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil || part != strconv.FormatUint(n, 10) {
			return v, false
		}
		v[i] = int(n)
	}
	return v, true
}
