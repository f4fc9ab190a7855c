//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/boot"
	"github.com/smolvm/smolvm/internal/guest/browse"
	"github.com/smolvm/smolvm/internal/guest/bulk"
	"github.com/smolvm/smolvm/internal/guest/network"
	"github.com/smolvm/smolvm/internal/guest/program"
	"github.com/smolvm/smolvm/internal/guest/service"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/guest/sshd"
	"github.com/smolvm/smolvm/internal/wire"
)

// setUpKernel does what neither the root nor the seed has a part in.
func setUpKernel() error {
	return errors.Join(boot.MountLate(), raiseLimits(), network.Loopback(), network.AllowPing())
}

// readSeed reads the seed and sets up what does not need the root: keys and
// network. Without a seed drive (pack mode needs none) there is neither.
func (a *agent) readSeed(ctx context.Context) error {
	if !a.options.Has(wire.SeedRole) {
		return nil
	}
	var err error
	if a.seed, err = setup.ReadSeed(a.drives[wire.SeedRole]); err != nil {
		return err
	}
	if err := a.seed.Rename(a.options.Hostname); err != nil {
		return err
	}
	if a.options.Mode != wire.ModeRun {
		a.seed.Session.Build = true // whatever the seed says: a layer comes of this
	}
	if err := a.seed.Trust(wire.AuthorityFile); err != nil {
		return err
	}
	if a.keys, err = parseKeys(a.seed); err != nil {
		return err
	}
	if err := a.configureNetwork(ctx); err != nil && ctx.Err() == nil {
		a.console.printf("network: %v", err) // sessions work without
	}
	a.steps.mark("network")
	return nil
}

// applySeed makes the root this sandbox's own.
func (a *agent) applySeed() error {
	if !a.options.Has(wire.SeedRole) {
		return nil
	}
	if err := unix.Sethostname([]byte(a.seed.Hostname())); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	var err error
	if a.env, err = setup.Apply("/", a.seed); err != nil {
		return err
	}
	maps.Copy(a.env, a.layerEnv())
	if err := setup.LinkPowerCommands("/", program.PowerDir, agentFile, !a.seed.Session.Build); err != nil {
		return err
	}
	if err := a.offerBrowser(); err != nil {
		return err
	}
	a.steps.mark("seed")
	return makeRuntimeDir(wire.AgentUID)
}

// offerBrowser lets programs find one: it has the host open addresses. A layer
// is made without.
func (a *agent) offerBrowser() error {
	if a.options.Mode != wire.ModeRun {
		return nil
	}
	if _, chosen := a.env["BROWSER"]; !chosen {
		a.env["BROWSER"] = filepath.Join(program.PowerDir, browse.Names()[0])
	}
	return browse.Link(program.PowerDir, agentFile)
}

// takeAddresses serves that browser.
func (a *agent) takeAddresses(ctx context.Context) {
	if a.options.Mode != wire.ModeRun {
		return
	}
	listener, err := browse.Listen(ctx, wire.OpenSocket)
	if err != nil {
		a.console.printf("%v", err)
		return
	}
	a.group.Go(func() { a.desk.Serve(ctx, listener) })
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

// keys are what the SSH server needs of the seed, parsed.
type keys struct {
	host       ssh.Signer
	authorized []ssh.PublicKey
}

func parseKeys(seed setup.Seed) (k keys, err error) {
	if k.host, err = ssh.ParsePrivateKey([]byte(seed.User.HostKeys.Private)); err != nil {
		return k, fmt.Errorf("seed: host key: %w", err)
	}
	for _, line := range seed.AuthorizedKeys() {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return k, fmt.Errorf("seed: authorized key: %w", err)
		}
		k.authorized = append(k.authorized, key)
	}
	return k, nil
}

func (a *agent) newServer() (*sshd.Server, error) {
	return sshd.New(sshd.Config{
		HostKey:     a.keys.host,
		Authorized:  a.keys.authorized,
		Users:       []string{wire.AgentUser, "root"},
		Account:     func(name string) (setup.Account, error) { return setup.FindAccount("/", name) },
		Environment: a.env,
		Credentials: a.agentEnv,
		Workspace:   wire.Workspace,
		Start:       a.reaper.Start,
		SFTP:        agentFile,
		Run:         "/run/smolvm",
		Now:         time.Now,
		Logf:        a.console.printf,
	})
}

func (a *agent) newBulk() *bulk.Server {
	return bulk.New(bulk.Config{
		Users:       []string{wire.AgentUser, "root"},
		Account:     func(name string) (setup.Account, error) { return setup.FindAccount("/", name) },
		Environment: a.env,
		Workspace:   wire.Workspace,
		Program:     agentFile,
		Start:       a.reaper.Start,
	})
}

// newKeeper makes the keeper of the seed's services. A machine that makes a layer has none.
func (a *agent) newKeeper() *service.Keeper {
	if a.options.Mode != wire.ModeRun {
		return nil
	}
	env := maps.Clone(a.env)
	maps.Copy(env, a.agentEnv())
	return service.New(service.Config{
		Services:    a.seed.Session.Services,
		Account:     func(name string) (setup.Account, error) { return setup.FindAccount("/", name) },
		Environment: env,
		Workspace:   wire.Workspace,
		Start:       a.reaper.Start,
		Logs:        wire.ServiceLog,
		Gates:       wire.ServiceGate,
		Grace:       serviceGrace,
		Pause:       service.DefaultPause(),
		Now:         time.Now,
		Logf:        a.console.printf,
	})
}

// startClock sets a clock that is behind a build's epoch to it: the kernel of an arm64
// machine reads no clock, and begins in 1970 until the host has said the time. A
// machine that packs is not told.
func startClock(epoch time.Time) error {
	if epoch.IsZero() || !time.Now().Before(epoch) {
		return nil
	}
	return setClock(epoch.UnixNano())
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
