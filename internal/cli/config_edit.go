package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
)

// mayBeWrong marks a command that runs although the configuration is wrong: it
// is there to correct it.
const mayBeWrong = "configuration-may-be-wrong"

// configEditOptions are what `config edit` was asked for.
type configEditOptions struct{}

func newConfigEdit(app *App, run func(context.Context, *App, configEditOptions) error) *cobra.Command {
	return &cobra.Command{
		Use:   "edit",
		Short: "Change your configuration in an editor",
		Long: `Open config.toml of the state folder in $VISUAL or $EDITOR (else vi). Where there is
none it begins with every setting as a comment. What you saved is checked before
it counts; where it is wrong you may go on editing.`,
		Example:     "  smolvm config edit\n  EDITOR=nano smolvm config edit",
		Args:        arguments(0, 0),
		Annotations: map[string]string{mayBeWrong: "yes"},
		RunE:        func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, configEditOptions{}) },
	}
}

func runConfigEdit(ctx context.Context, app *App, _ configEditOptions) error {
	c, err := app.Config()
	if c.File == "" { // the environment is wrong, not the file
		return err
	}
	before, err := c.BeginEdit()
	if err != nil {
		return err
	}
	draft, err := writeDraft(before)
	if err != nil {
		return fault.New(fault.Storage, "", "write a draft of the configuration: %w", err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(filepath.Dir(draft))
		}
	}()
	text, err := app.editUntilRight(ctx, c, draft)
	if err != nil {
		keep = text != before && text != ""
		if keep {
			err = inDraft(err, draft)
		}
		return err
	}
	if _, missing := os.Lstat(c.File); text == before && missing == nil {
		app.Streams.Say("Nothing was changed.")
		return nil
	}
	if err := c.EndEdit(ctx, before, text); err != nil {
		keep = true
		return inDraft(err, draft)
	}
	app.Streams.Say("%s is written.", c.File)
	return nil
}

// inDraft adds to an error where what the user wrote is kept.
func inDraft(err error, draft string) error {
	return fault.New(fault.CodeOf(err), strings.TrimSpace(fault.HintOf(err)+" Your draft is "+draft+"."), "%w", err)
}

// writeDraft puts the text where only the user reads it: it may hold a password.
func writeDraft(text string) (string, error) {
	dir, err := os.MkdirTemp("", "smolvm-config-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config.toml")
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// editUntilRight runs the editor until the draft is a configuration or the user
// gives up. The text is the last that was saved.
func (a *App) editUntilRight(ctx context.Context, c config.Config, draft string) (string, error) {
	for {
		if err := a.edit(ctx, c, draft); err != nil {
			return "", err
		}
		raw, err := os.ReadFile(draft)
		if err != nil {
			return "", fault.New(fault.Storage, "", "read the draft: %w", err)
		}
		err = c.CheckText(string(raw))
		if err == nil {
			return string(raw), nil
		}
		if !a.Streams.Interactive() {
			return string(raw), err
		}
		a.Streams.Say("smolvm: %v\n%s", err, fault.HintOf(err))
		again, stopped := a.Streams.Confirm(ctx, "Edit it again?")
		if stopped != nil || !again {
			return string(raw), errors.Join(stopped, err)
		}
	}
}

// edit runs the user's editor on the terminal.
func (a *App) edit(ctx context.Context, c config.Config, path string) error {
	editor := "vi"
	for _, name := range []string{"EDITOR", "VISUAL"} {
		if chosen := c.Getenv(name); chosen != "" {
			editor = chosen
		}
	}
	cmd, err := a.runner().Chosen(ctx, editor, path)
	if err != nil {
		return fault.New(fault.Host, "Name an editor with EDITOR, or use smolvm config set.", "edit the configuration: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.Streams.In, a.Streams.Out, a.Streams.Err
	if err := cmd.Run(); err != nil {
		return fault.New(fault.Host, "Nothing was changed.", "edit the configuration with %s: %w", editor, err)
	}
	return nil
}
