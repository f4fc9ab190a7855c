//go:build linux

package credential

import (
	"fmt"
	"os"
	"strings"

	"github.com/smolvm/smolvm/internal/wire"
)

// gitMark begins a configuration of git's that is ours to replace.
const gitMark = "# Written by smolvm at each start; take this line away to keep your own.\n"

// gitTrust lets every user of the sandbox use what is mounted: those files are the
// agent's, and git refuses repositories of somebody else, also to root. There is
// nobody in a sandbox to be kept from the others by that.
const gitTrust = "[safe]\n\tdirectory = *\n"

// WriteGit tells git who commits and what it may trust, for all users, unless the
// file is the user's own.
func WriteGit(path string, who *wire.GitIdentity) error {
	old, err := os.ReadFile(path)
	if err == nil && !strings.HasPrefix(string(old), gitMark) {
		return nil
	}
	text := gitMark + gitTrust
	if who != nil {
		text += fmt.Sprintf("[user]\n\tname = %s\n\temail = %s\n", gitQuoted(who.Name), gitQuoted(who.Email))
	}
	if string(old) == text {
		return nil
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write git's settings: %w", err)
	}
	return nil
}

// gitQuoted quotes a value; line breaks cannot be in a name.
func gitQuoted(value string) string {
	value = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, value)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}
