package cli

import (
	"context"
	"strings"
	"time"
	"unicode"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	gitTimeout  = 3 * time.Second
	maxIdentity = 200 // characters of a name or an address
)

// gitIdentity is who commits in this directory, as git here says; nil where there
// is no git, no identity, or no wish to pass it on.
func (a *App) gitIdentity(ctx context.Context, c config.Config) *wire.GitIdentity {
	if !c.On("git_identity", "") {
		return nil
	}
	who := wire.GitIdentity{Name: a.gitValue(ctx, "user.name"), Email: a.gitValue(ctx, "user.email")}
	if who.Name == "" || who.Email == "" {
		return nil
	}
	return &who
}

func (a *App) gitValue(ctx context.Context, key string) string {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := a.runner().Command(ctx, process.Git, "config", "--get", key)
	cmd.Dir = a.Directory
	out, err := process.Output(cmd)
	value := strings.TrimSpace(string(out))
	if err != nil || len(value) > maxIdentity || strings.ContainsFunc(value, unicode.IsControl) {
		return ""
	}
	return value
}
