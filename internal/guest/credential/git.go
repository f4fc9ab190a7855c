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

// WriteGit tells git who commits, for all users, unless the file is the user's own.
func WriteGit(path string, who *wire.GitIdentity) error {
	old, err := os.ReadFile(path)
	switch {
	case err == nil && !strings.HasPrefix(string(old), gitMark):
		return nil
	case err != nil && who == nil:
		return nil
	}
	text := gitMark
	if who != nil {
		text += fmt.Sprintf("[user]\n\tname = %s\n\temail = %s\n", gitQuoted(who.Name), gitQuoted(who.Email))
	}
	if string(old) == text {
		return nil
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("tell git who commits: %w", err)
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
