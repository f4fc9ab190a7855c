package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	sum := digest(l.Content)
	if sum == l.Given {
		return nil
	}
	ours, err := a.readLogin(l.Path)
	switch {
	case err != nil:
		return err
	case digest(ours) == sum:
		return nil
	case digest(ours) != l.Given:
		return errors.New("it was changed here too")
	case len(l.Content) == 0 || len(l.Content) > maxLogin || json.Valid(ours) && !json.Valid(l.Content):
		return errors.New("what the sandbox has is no login any more")
	}
	path, err := filepath.EvalSymlinks(filepath.Join(a.UserHome, l.Path))
	if err != nil {
		return err
	}
	if err := replaceSecret(path, l.Content); err != nil {
		return err
	}
	a.notice("~/%s was renewed by the agent and is copied back.", l.Path)
	return nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// replaceSecret replaces a file in one step; its owner alone may read it.
func replaceSecret(path string, content []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".smolvm-login-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // not there any more when all went well
	_, err = temp.Write(content)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return fmt.Errorf("replace it: %w", err)
	}
	return nil
}
