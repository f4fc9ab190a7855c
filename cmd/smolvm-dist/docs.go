package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/cli"
	"github.com/smolvm/smolvm/internal/ui"
)

// completions are the files as each shell looks for them.
var completions = map[string]string{
	"bash": "bash/smolvm", "zsh": "zsh/_smolvm", "fish": "fish/smolvm.fish",
}

func docs(args []string, _ io.Writer) error {
	if err := want(args, 3); err != nil {
		return err
	}
	at, err := moment(args[1])
	if err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "smolvm-dist-") // an empty one, so that no configuration is read
	if err != nil {
		return fmt.Errorf("make an empty home: %w", err)
	}
	defer os.RemoveAll(home)
	if err := writeManual(program(args[0], home, io.Discard), at, filepath.Join(args[2], "man", "man1")); err != nil {
		return err
	}
	for shell, file := range completions {
		if err := writeCompletion(args[0], home, shell, filepath.Join(args[2], "completions", file)); err != nil {
			return err
		}
	}
	return nil
}

// program is the command line without anything of this computer.
func program(version, home string, out io.Writer) *cli.App {
	streams := &ui.Streams{In: strings.NewReader(""), Out: out, Err: os.Stderr}
	return cli.New(cli.Outside{
		Streams: streams, UserHome: home, Self: "smolvm", Presets: images.Files(), Now: time.Now, Rand: rand.Reader,
	}, cli.Build{Version: version})
}

func writeManual(app *cli.App, at time.Time, dir string) error {
	pages, err := app.Manual(at)
	if err != nil {
		return fmt.Errorf("write the manual: %w", err)
	}
	for _, page := range pages {
		if err := write(filepath.Join(dir, page.Name), []byte(page.Text)); err != nil {
			return err
		}
	}
	return nil
}

func writeCompletion(version, home, shell, path string) error {
	var out bytes.Buffer
	if status := program(version, home, &out).Main([]string{"completion", shell}); status != 0 {
		return fmt.Errorf("write the completion of %s: status %d", shell, status)
	}
	return write(path, out.Bytes())
}

func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
