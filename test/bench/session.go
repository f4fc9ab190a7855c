//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/wire"
)

// sessions compares `smolvm exec` with its floor, opening a session on a
// connection that is already there, and with a new ssh each time.
func (b *bench) sessions(ctx context.Context) (string, error) {
	if _, err := b.must(ctx, "claude", "start", "-n", "busy", "--no-mount", "--no-attach"); err != nil {
		return "", err
	}
	client, done, err := b.connect(ctx, "busy")
	if err != nil {
		return "", err
	}
	defer done()
	var exec, session, fresh series
	for range 10 * b.rounds {
		d, err := timed(func() error { return onConnection(ctx, client) })
		if err != nil {
			return "", err
		}
		session = append(session, d)
		if d, err = timed(func() error { _, err := b.must(ctx, "exec", "busy", "--", "true"); return err }); err != nil {
			return "", err
		}
		exec = append(exec, d)
	}
	if fresh, err = repeat(2*b.rounds, func() error { return b.freshSSH(ctx, "busy") }); err != nil {
		return "", err
	}
	kept, err := b.multiplexed(ctx, "busy", 10*b.rounds)
	if err != nil {
		return "", err
	}
	memory, err := b.memory("busy")
	if err != nil {
		return "", err
	}
	r := ratio(exec, session)
	return fmt.Sprintf("## Sessions\n\nOne running sandbox; the program is `true`.\n\n| | time |\n|---|---|\n| `smolvm exec`, the whole command | %s |\n| session on a live SSH connection | %s |\n| ratio | %.2f (%s) |\n| `ssh` with a new connection | %s |\n| ratio, exec to ssh | %.2f |\n| `ssh` with a multiplexed connection (`ControlMaster`, `smolvm ssh-config`) | %s |\n| ratio, exec to that | %.2f |\n\nResident memory of the supervisor: %s.\n",
		exec, session, r, verdict(r, 1.3), fresh, ratio(exec, fresh), kept, ratio(exec, kept), memory), nil
}

// connect opens an SSH connection of our own through `smolvm ssh --stdio`.
func (b *bench) connect(ctx context.Context, name string) (*sshx.Client, func(), error) {
	cmd := b.command(ctx, "ssh", "--stdio", name)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	key, err := os.ReadFile(b.sshFile(name, "client_ed25519"))
	if err != nil {
		return nil, nil, err
	}
	host, err := os.ReadFile(b.sshFile(name, "host_ed25519.pub"))
	if err != nil {
		return nil, nil, err
	}
	client, err := sshx.Connect(ctx, pipes{in, out}, sshx.Config{
		User: wire.AgentUser, ClientKey: string(key), HostKey: strings.TrimSpace(string(host)),
	})
	if err != nil {
		return nil, nil, err
	}
	return client, func() { _, _ = client.Close(), cmd.Wait() }, nil
}

func (b *bench) sshFile(name, file string) string {
	return filepath.Join(b.home, "sandboxes", name, "ssh", file)
}

// onConnection runs one program on a connection that is already there.
func onConnection(ctx context.Context, client *sshx.Client) error {
	s, err := client.Start(ctx, wire.Start{Argv: []string{"true"}}, nil)
	if err != nil {
		return err
	}
	_ = s.CloseStdin()
	_, _ = io.Copy(io.Discard, s.Stdout())
	_, _ = io.Copy(io.Discard, s.Stderr())
	_, err = s.Wait()
	return err
}

// freshSSH is what a user without exec would do.
func (b *bench) freshSSH(ctx context.Context, name string) error {
	cmd := exec.CommandContext(ctx, "ssh", "-F", "none", "-o", "ProxyCommand="+b.smolvm+" ssh --stdio "+name,
		"-o", "UserKnownHostsFile="+b.sshFile(name, "known_hosts"), "-o", "IdentitiesOnly=yes",
		"-i", b.sshFile(name, "client_ed25519"), "agent@"+name, "true")
	cmd.Env = b.command(ctx).Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("ssh: %w: %s", err, out)
	}
	return nil
}

// memory is the supervisor's resident memory and the part of it that is its own.
func (b *bench) memory(name string) (string, error) {
	pids, err := b.pids(name)
	if err != nil {
		return "", err
	}
	path := fmt.Sprintf("/proc/%d/status", pids[0])
	resident, own := field(path, "VmRSS"), field(path, "RssAnon")
	if resident == "unknown" {
		return "", errors.New("the supervisor's memory cannot be read")
	}
	return fmt.Sprintf("%s, of which anonymous %s", resident, own), nil
}

// tool measures what every command costs before it does anything.
func (b *bench) tool(ctx context.Context) (string, error) {
	list, err := repeat(10*b.rounds, func() error { _, err := b.must(ctx, "list"); return err })
	if err != nil {
		return "", err
	}
	version, err := repeat(10*b.rounds, func() error { _, err := b.must(ctx, "version"); return err })
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("## The tool itself\n\n| | time |\n|---|---|\n| `smolvm list`, two sandboxes | %s |\n| `smolvm version` | %s |\n", list, version), nil
}

// pipes are a child's two pipes as one connection.
type pipes struct {
	io.WriteCloser
	out io.Reader
}

func (p pipes) Read(b []byte) (int, error)       { return p.out.Read(b) }
func (p pipes) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
func (p pipes) RemoteAddr() net.Addr             { return p.LocalAddr() }
func (p pipes) SetDeadline(time.Time) error      { return nil }
func (p pipes) SetReadDeadline(time.Time) error  { return nil }
func (p pipes) SetWriteDeadline(time.Time) error { return nil }
