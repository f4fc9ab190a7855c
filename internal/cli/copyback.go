package cli

import (
	"context"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/login"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
)

// copyBack replaces login files of this computer by what the agent made of those
// that it was given, where the user said so. What goes wrong is told and harms
// nothing else.
func (a *App) copyBack(ctx context.Context, boxes sandboxes, s sandbox.Status) {
	c, err := a.Config()
	if err != nil || !c.On("copy_back", s.Preset) {
		return
	}
	conn, err := boxes.Connect(ctx, s.Name)
	if err != nil {
		return // it ended meanwhile, and what it had with it
	}
	defer conn.Close()
	logins, err := conn.Logins(ctx)
	if err != nil {
		a.warn("login files of %s are not copied back: %v", s.Name, err)
		return
	}
	for _, l := range logins {
		if err := a.copyLogin(l); err != nil {
			a.warn("~/%s is not copied back: %v", l.Path, err)
		}
	}
}

// copyLogin replaces one login file, if the sandbox's is newer and ours is still
// what it was given.
func (a *App) copyLogin(l supervise.Login) error {
	renewed, err := login.Renew(a.UserHome, l.Path, l.Content, l.Given)
	if renewed && err == nil {
		a.notice("~/%s was renewed by the agent and is copied back.", l.Path)
	}
	return err
}

// loginHome is where login files are replaced before a sandbox of the preset stops
// by itself; empty: they are not.
func (a *App) loginHome(c config.Config, presetName string) string {
	if !c.On("copy_back", presetName) {
		return ""
	}
	return a.UserHome
}
