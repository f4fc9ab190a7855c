//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/boot"
	"github.com/smolvm/smolvm/internal/guest/network"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/guest/sshd"
	"github.com/smolvm/smolvm/internal/wire"
)

// setUp makes the fresh root this sandbox's own. Without a seed (pack mode needs
// none) only the kernel's side is set up.
func (a *agent) setUp(ctx context.Context) error {
	if err := boot.MountLate(); err != nil {
		return err
	}
	if err := raiseLimits(); err != nil {
		return err
	}
	if err := network.Loopback(); err != nil {
		return err
	}
	if !a.options.Has(wire.SeedRole) {
		a.env = a.layerEnv()
		return nil
	}
	if a.options.Mode != wire.ModeRun {
		a.seed.User.SmolVM.Build = true // whatever the seed says: a layer comes of this
	}
	if err := a.applySeed(); err != nil {
		return err
	}
	a.steps.mark("seed")
	if err := a.configureNetwork(ctx); err != nil {
		a.console.printf("network: %v", err) // sessions work without
	}
	a.steps.mark("network")
	return nil
}

func (a *agent) applySeed() error {
	if err := unix.Sethostname([]byte(a.seed.Hostname())); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	env, err := setup.Apply("/", a.seed)
	if err != nil {
		return err
	}
	for name, value := range a.layerEnv() {
		env[name] = value
	}
	a.env = env
	if err := setup.LinkPowerCommands("/", sshd.PowerDir, agentFile, !a.seed.User.SmolVM.Build); err != nil {
		return err
	}
	return makeRuntimeDir(wire.AgentUID)
}

// layerEnv is set where a layer is made: programs that put times into what they
// write (Python's bytecode is one) then agree with the layer's clamped times.
func (a *agent) layerEnv() map[string]string {
	if a.options.Mode == wire.ModeRun || a.options.Epoch.IsZero() {
		return map[string]string{}
	}
	return map[string]string{"SOURCE_DATE_EPOCH": strconv.FormatInt(a.options.Epoch.Unix(), 10)}
}

func makeRuntimeDir(uid int) error {
	dir := "/run/user/" + strconv.Itoa(uid)
	if err := os.MkdirAll("/run/user", 0o755); err != nil {
		return fmt.Errorf("make runtime folder: %w", err)
	}
	err := os.Mkdir(dir, 0o700)
	if err := errors.Join(err, os.Chown(dir, uid, uid)); err != nil {
		return fmt.Errorf("make runtime folder: %w", err)
	}
	return nil
}

func (a *agent) configureNetwork(ctx context.Context) error {
	config := a.seed.Network
	if len(config.Ethernets) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, networkTime, errors.New("there is no network card"))
	defer cancel()
	if err := boot.Await(ctx, func() (bool, error) { return network.Present(config) }); err != nil {
		return err
	}
	return network.Configure(config)
}

// raiseLimits lifts the number of open files, for which the kernel's 4096 are
// too few for Node and its watchers; 524288 is what systemd gives.
func raiseLimits() error {
	limit := unix.Rlimit{Cur: 65536, Max: 524288}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	return nil
}

// newServer makes the SSH server from the seed's keys.
func (a *agent) newServer() (*sshd.Server, error) {
	if !a.options.Has(wire.SeedRole) {
		return nil, errors.New("there is no seed drive")
	}
	hostKey, err := ssh.ParsePrivateKey([]byte(a.seed.User.HostKeys.Private))
	if err != nil {
		return nil, fmt.Errorf("seed: host key: %w", err)
	}
	var authorized []ssh.PublicKey
	for _, line := range a.seed.AuthorizedKeys() {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("seed: authorized key: %w", err)
		}
		authorized = append(authorized, key)
	}
	return sshd.New(sshd.Config{
		HostKey:     hostKey,
		Authorized:  authorized,
		Users:       []string{wire.AgentUser, "root"},
		Account:     func(name string) (setup.Account, error) { return setup.FindAccount("/", name) },
		Environment: a.env,
		Workspace:   wire.Workspace,
		Start:       a.reaper.Start,
		SFTP:        agentFile,
		Logf:        a.console.printf,
	})
}

// setClock sets the wall clock, unless it is right within a tenth of a second:
// a step back for nothing confuses programs.
func setClock(unixNano int64) error {
	to := time.Unix(0, unixNano)
	if off := time.Since(to).Abs(); off < 100*time.Millisecond {
		return nil
	}
	at := unix.NsecToTimespec(unixNano)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &at); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}
