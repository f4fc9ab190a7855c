package process

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// Chosen prepares a program of the user's own choice, such as $EDITOR: a word
// with arguments in it, separated by spaces, and further arguments that are passed
// as they are. It is no tool of SmolVM's: it gets the user's whole environment and
// stays in the terminal's foreground.
func (r *Runner) Chosen(ctx context.Context, choice string, args ...string) (*exec.Cmd, error) {
	words := strings.Fields(choice)
	if len(words) == 0 {
		return nil, fault.New(fault.Host, "", "start a program: none is named")
	}
	path, err := r.findChosen(words[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, slices.Concat(words[1:], args)...)
	cmd.Env = r.environ
	cmd.WaitDelay = Grace
	return cmd, nil
}

func (r *Runner) findChosen(name string) (string, error) {
	if filepath.IsAbs(name) && executable(name) {
		return name, nil
	}
	if !strings.Contains(name, "/") {
		for _, folder := range r.folders {
			if path := filepath.Join(folder, name); filepath.IsAbs(folder) && executable(path) {
				return path, nil
			}
		}
	}
	return "", fault.New(fault.Host, "Name a program that is there.", "find program %s: not in %s", name, strings.Join(r.folders, ":"))
}
