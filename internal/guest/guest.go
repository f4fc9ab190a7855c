//go:build linux

// Package guest is the agent inside a sandbox: the machine's first process. It
// brings up the root file system, applies the seed, tells the host that it is
// ready, serves sessions over the guest link, and ends the machine in order.
//
// Input is the kernel command line and the drives it names. What survives a
// crash is the scratch file system, which every boot takes as it finds it; all
// else lives in memory.
package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/boot"
	"github.com/smolvm/smolvm/internal/guest/browse"
	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/guest/port"
	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/service"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/guest/usage"
	"github.com/smolvm/smolvm/internal/wire"
)

// Bounds of waiting. They end a boot that cannot succeed; a healthy one, even
// emulated on a busy host, needs a tenth.
const (
	deviceTime  = 60 * time.Second
	buildTime   = 20 * time.Minute // to extract a large archive on a slow host
	networkTime = 10 * time.Second
	farewell    = 10 * time.Second // for the host to take a last message
)

// agentFile is where the agent's own binary is in the final root.
const agentFile = "/run/smolvm/agent"

// agent is the running first process.
type agent struct {
	version     string
	console     *console
	steps       *steps
	reaper      *reap.Reaper
	uplink      *uplink
	options     boot.Options
	drives      boot.Drives
	root        *boot.Root
	seed        setup.Seed
	keys        keys
	env         map[string]string // of sessions
	keeper      *service.Keeper   // of services; nil before the guest is ready
	mounts      *mounts
	credentials *credentials
	likeness    likeness
	desk        browse.Desk // for addresses
	orders      chan order
	group       sync.WaitGroup // goroutines that end with the run's context
}

// Init is the whole life of the machine. It returns only when the kernel
// refuses to power off.
func Init(version string) error {
	a := &agent{version: version, reaper: reap.New(), orders: make(chan order, 1), steps: newSteps(uptime)}
	a.uplink = newUplink(rand.Reader, a.orders)
	a.mounts = newMounts(func() string { return a.options.Vsock })
	a.credentials = newCredentials()
	a.desk.Tell = a.uplink.say
	a.uplink.answered = a.desk.Answered
	ctx, cancel := context.WithCancel(context.Background())
	a.uplink.mounts = func(m wire.Message) { a.heardOfMounts(ctx, m) }
	a.uplink.credentials = func(m wire.Message) { a.credentialMessage(ctx, m) }
	a.uplink.snapshots = func(m wire.Message) { a.heardOfSnapshot(ctx, m) }
	a.group.Go(func() { a.reaper.Run(ctx) })
	end, err := a.live(ctx)
	if err != nil {
		a.console.printf("%v", err)
		a.farewell(wire.Message{Type: wire.Failed, Text: err.Error()}, farewell)
		end = powerOff
	}
	err = a.end(end)
	cancel()
	a.group.Wait()
	return err
}

// live boots, serves until told to end, and returns how.
func (a *agent) live(ctx context.Context) (order, error) {
	if err := a.boot(ctx); err != nil {
		return 0, err
	}
	if a.options.Mode == wire.ModePack {
		return powerOff, a.pack(ctx)
	}
	if err := a.awaitMounts(ctx); err != nil {
		return 0, err
	}
	if err := a.awaitCredentials(ctx); err != nil {
		return 0, err
	}
	server, err := a.newServer()
	if err != nil {
		return 0, err
	}
	a.likeness.server = server
	a.uplink.serve(servers{
		wire.StreamSSH: server, wire.StreamBulk: a.newBulk(), wire.StreamPort: port.New("/proc"),
		wire.StreamUsage: usage.New("/proc", "/"), wire.StreamGrow: &growing{grow: a.root.GrowScratch},
	})
	a.takeAddresses(ctx)
	a.keeper = a.newKeeper()
	a.steps.mark("ready")
	report := a.steps.report(a.version)
	a.uplink.publish(wire.Message{Type: wire.Ready, Boot: &report})
	a.uplink.announce(nil) // which also says that sessions are kept
	a.group.Go(func() { server.Tell(ctx, a.uplink.announce) })
	a.console.printf("ready after %d ms", report.UptimeMS)
	a.group.Go(func() { a.watchDisk(ctx) })
	if a.options.Vsock != "" {
		a.group.Go(func() { a.watchMemory(ctx) })
	}
	a.keeper.Start()
	a.keepReserve()
	sweep, stop := context.WithCancel(ctx)
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		if err := a.root.RemoveStale(sweep); err != nil && sweep.Err() == nil {
			a.console.printf("%v", err)
		}
	})
	end := <-a.orders
	stop()
	sweeping.Wait()
	return end, nil
}

// boot goes from the initramfs to a root with the seed applied. What does not
// depend on each other goes on side by side: even an emulated machine has a
// second processor, which would be idle.
func (a *agent) boot(ctx context.Context) error {
	a.steps.mark("kernel")
	if err := boot.MountEarly(); err != nil {
		return err
	}
	a.console = openConsole()
	a.listenForSignals(ctx)
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read kernel command line: %w", err)
	}
	if a.options, err = boot.ParseCommandLine(string(line)); err != nil {
		return err
	}
	if err := startClock(a.options.Epoch); err != nil {
		return err
	}
	modules, err := boot.OpenModules(wire.ModuleFolder)
	if err != nil {
		return err
	}
	a.group.Go(func() { a.load(modules) })
	if err := a.findDevices(ctx); err != nil {
		return errors.Join(err, modules.Err())
	}
	a.steps.mark("devices")
	group, side := errgroup.WithContext(ctx)
	group.Go(func() error { return a.buildRoot(side, modules) })
	group.Go(func() error { return a.readSeed(side) })
	group.Go(setUpKernel)
	if err := group.Wait(); err != nil {
		return err
	}
	if err := a.switchRoot(); err != nil {
		return err
	}
	var last errgroup.Group
	last.Go(a.root.Settle)
	last.Go(a.applySeed)
	return last.Wait()
}

// load loads the kernel's modules. One that fails to load is no failure of its
// own: whoever needs it says so.
func (a *agent) load(modules *boot.Modules) {
	modules.Load(filepath.Base(wire.ModuleList))
	a.steps.mark("modules")
	if err := modules.Err(); err != nil {
		a.console.printf("%v", err)
	}
}

// findDevices waits for the guest link's port and the drives, and begins to
// open the link, which takes the host's answer.
func (a *agent) findDevices(life context.Context) error {
	ctx, cancel := context.WithTimeoutCause(life, deviceTime, errors.New("it did not appear"))
	defer cancel()
	port, err := a.openLink(ctx, life)
	if err != nil {
		return err
	}
	a.group.Go(func() {
		if err := a.uplink.keep(life, port); err != nil {
			a.console.printf("%v", err)
		}
	})
	a.drives, err = boot.FindDrives(ctx, "/sys", "/dev", a.options.Drives)
	return err
}

// openLink opens what the guest link goes by on this machine.
func (a *agent) openLink(ctx, life context.Context) (link.Port, error) {
	if a.options.Vsock != "" {
		return a.uplink.callHost(ctx, life, a.options.Vsock)
	}
	return a.uplink.findPort(ctx, life)
}

func (a *agent) buildRoot(ctx context.Context, modules *boot.Modules) error {
	ctx, cancel := context.WithTimeoutCause(ctx, buildTime, errors.New("it took too long"))
	defer cancel()
	builder := boot.Builder{Options: a.options, Drives: a.drives, Modules: modules, Run: a.runIn, Working: a.working, Logf: a.console.printf}
	var err error
	a.root, err = builder.Build(ctx)
	a.steps.mark("root")
	return err
}

// switchRoot enters the root. The agent's binary stays visible in it: sessions
// run it for SFTP and as the power commands.
func (a *agent) switchRoot() error {
	if err := boot.Bind("/init", agentFile); err != nil {
		return err
	}
	err := boot.SwitchRoot(a.root.Dir)
	a.steps.mark("switch")
	return err
}

// farewell tells the host a last thing and waits until it has it, for a while.
func (a *agent) farewell(message wire.Message, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a.uplink.deliver(ctx, message)
}

// working tells the host what takes so long.
func (a *agent) working(text string) {
	a.console.printf("%s", text)
	a.uplink.publish(wire.Message{Type: wire.Working, Text: text})
}

// listenForSignals turns signals into orders: SIGINT is what the kernel makes of
// ctrl-alt-del, the others are those of the power commands.
func (a *agent) listenForSignals(ctx context.Context) {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGUSR2, signalReboot)
	a.group.Go(func() {
		defer signal.Stop(signals)
		for {
			select {
			case sig := <-signals:
				give(a.orders, orderOf(sig))
			case <-ctx.Done():
				return
			}
		}
	})
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "unknown"
	}
	return strings.TrimRight(string(name.Release[:]), "\x00")
}
