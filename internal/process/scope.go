package process

import (
	"context"
	"os/exec"
)

// Scoped prepares this program again in a scope, a control group that the user's own
// systemd makes and lets it rule. systemd-run asks for it and then becomes the program:
// process, open files and environment stay; INVOCATION_ID is added. Where it is refused
// it ends with a word on standard error and the program never runs. A scope ends with
// its last process, or with the user's systemd, which ends all that is in it.
func (r *Runner) Scoped(ctx context.Context, description string, args ...string) *exec.Cmd {
	self, err := r.Find(Self)
	cmd := r.Command(ctx, SystemdRun, append([]string{
		"--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--description=" + description, "--", self,
	}, args...)...)
	if err != nil {
		cmd.Err = err
	}
	return cmd
}
