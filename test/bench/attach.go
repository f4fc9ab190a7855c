//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/test/terminal"
)

// shown is what the stand-in for an agent has on its screen.
const shown = "this is its screen"

// standIn is an agent that draws at once, and then waits.
const standIn = "#!/bin/sh\nprintf '\\033[?1049h\\033[2J\\033[H" + shown + "'; exec sleep 100000\n"

// attaches measures how long somebody at a terminal waits for an agent that runs.
func (b *bench) attaches(ctx context.Context) (string, error) {
	if _, err := b.must(ctx, "claude", "start", "-n", "watched", "--no-mount", "--no-attach"); err != nil {
		return "", err
	}
	defer func() { _, _ = b.must(context.WithoutCancel(ctx), "delete", "watched", "--yes") }()
	plant := b.command(ctx, "exec", "watched", "--", "sh", "-c", "mkdir -p ~/.local/bin && cat >~/.local/bin/claude && chmod +x ~/.local/bin/claude")
	plant.Stdin = strings.NewReader(standIn)
	if out, err := plant.CombinedOutput(); err != nil {
		return "", fmt.Errorf("plant an agent: %w: %s", err, out)
	}
	fresh, err := repeatShown(2*b.rounds, func() (time.Duration, error) { return b.attach(ctx, "attach", "--new", "watched") })
	if err != nil {
		return "", err
	}
	again, err := repeatShown(10*b.rounds, func() (time.Duration, error) { return b.attach(ctx, "attach", "watched") })
	if err != nil {
		return "", err
	}
	exec, err := repeat(10*b.rounds, func() error { _, err := b.must(ctx, "exec", "watched", "--", "true"); return err })
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("## Attach\n\nFrom the start of the command until the terminal shows the agent's screen; a stand-in for the agent draws at once.\n\n| | time |\n|---|---|\n| `smolvm attach`, to a session that was left | %s |\n| `smolvm attach --new`, which starts the agent | %s |\n| `smolvm exec NAME true`, for comparison | %s |\n| ratio, attach to exec | %.2f |\n",
		again, fresh, exec, ratio(again, exec)), nil
}

func repeatShown(n int, f func() (time.Duration, error)) (s series, err error) {
	for range n {
		d, err := f()
		if err != nil {
			return nil, err
		}
		s = append(s, d)
	}
	return s, nil
}

// attach runs a command on a terminal until that shows the agent, leaves the session
// by the keys for it, and gives the time that the screen took.
func (b *bench) attach(ctx context.Context, args ...string) (took time.Duration, err error) {
	master, slave, err := terminal.Open(30, 100)
	if err != nil {
		return 0, err
	}
	defer master.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := b.command(ctx, args...)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	slave.Close()
	if err := until(master, shown); err != nil {
		return 0, errors.Join(err, cmd.Wait())
	}
	took = time.Since(begun)
	if _, err := master.WriteString("\x10\x11"); err != nil { // ctrl-p ctrl-q
		return 0, err
	}
	_, _ = io.Copy(io.Discard, master) // to the end of the command, which is an error of the terminal
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("smolvm %s: %w", strings.Join(args, " "), err)
	}
	return took, nil
}

// until reads until a text came.
func until(from io.Reader, text string) error {
	var seen bytes.Buffer
	chunk := make([]byte, 4096)
	for !bytes.Contains(seen.Bytes(), []byte(text)) {
		n, err := from.Read(chunk)
		seen.Write(chunk[:n])
		if err != nil {
			return fmt.Errorf("wait for %q on a terminal: %w: %q", text, err, seen.String())
		}
	}
	return nil
}

// multiplexed measures OpenSSH on a connection that it keeps, as `smolvm ssh-config`
// sets it up.
func (b *bench) multiplexed(ctx context.Context, name string, n int) (s series, err error) {
	config := filepath.Join(b.scratch, "multiplexed")
	text := fmt.Sprintf("Host *\n\tControlMaster auto\n\tControlPersist yes\n\tControlPath %s/%%C\nInclude \"%s/ssh_config\"\n", b.scratch, b.home)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	ssh := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "ssh", append([]string{"-F", config}, args...)...)
		cmd.Env = b.command(ctx).Env
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	host := name + ".smolvm"
	if err := ssh("-fNM", host); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ssh("-O", "exit", host)) }()
	return repeat(n, func() error { return ssh(host, "true") })
}
