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
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/boot"
	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

// Bounds of waiting. They end a boot that cannot succeed; a healthy one, even
// emulated on a busy host, needs a tenth.
const (
	deviceTime  = 60 * time.Second
	networkTime = 10 * time.Second
	farewell    = 10 * time.Second // for the host to take a last message
)

// Where the agent's own things are, in the final root.
const (
	agentFile = "/run/smolvm/agent"
	seedDir   = "/seed"
)

// agent is the running first process.
type agent struct {
	version string
	console *console
	steps   *steps
	reaper  *reap.Reaper
	uplink  *uplink
	options boot.Options
	drives  boot.Drives
	root    *boot.Root
	seed    setup.Seed
	env     map[string]string // of sessions
	orders  chan order
	group   sync.WaitGroup // goroutines that end with the run's context
}

// Init is the whole life of the machine. It returns only when the kernel
// refuses to power off.
func Init(version string) error {
	a := &agent{version: version, reaper: reap.New(), orders: make(chan order, 1), steps: newSteps(uptime)}
	a.uplink = newUplink(rand.Reader)
	ctx, cancel := context.WithCancel(context.Background())
	a.group.Go(func() { a.reaper.Run(ctx) })
	end, err := a.live(ctx)
	if err != nil {
		a.console.printf("%v", err)
		a.uplink.farewell(wire.Message{Type: wire.Failed, Text: err.Error()}, farewell)
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
	server, err := a.newServer()
	if err != nil {
		return 0, err
	}
	a.uplink.serve(server)
	a.steps.mark("ready")
	report := a.steps.report(a.version)
	a.uplink.publish(wire.Message{Type: wire.Ready, Boot: &report})
	a.console.printf("ready after %d ms", report.UptimeMS)
	if err := a.root.Settle(); err != nil {
		a.console.printf("%v", err)
	}
	return <-a.orders, nil
}

// boot goes from the initramfs to a root with the seed applied.
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
	if err := boot.LoadModules(wire.ModuleFolder, wire.ModuleList); err != nil {
		return err
	}
	a.steps.mark("modules")
	if err := a.findDevices(ctx); err != nil {
		return err
	}
	a.steps.mark("devices")
	if err := a.buildRoot(ctx); err != nil {
		return err
	}
	a.steps.mark("root")
	return a.setUp(ctx)
}

// findDevices waits for the guest link's port and the drives, and begins to
// open the link, which takes the host's answer.
func (a *agent) findDevices(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, deviceTime, errors.New("it did not appear"))
	defer cancel()
	if err := a.uplink.start(ctx, &a.group, a.orders); err != nil {
		return err
	}
	var err error
	a.drives, err = boot.FindDrives(ctx, "/sys", "/dev", a.options.Drives)
	return err
}

// buildRoot makes the root, reads the seed, and switches to the root.
func (a *agent) buildRoot(ctx context.Context) error {
	builder := boot.Builder{Options: a.options, Drives: a.drives, Run: a.runIn, Working: a.working, Logf: a.console.printf}
	var err error
	if a.root, err = builder.Build(ctx); err != nil {
		return err
	}
	if a.options.Has(wire.SeedRole) {
		if a.seed, err = setup.ReadSeed(a.drives[wire.SeedRole], seedDir); err != nil {
			return err
		}
	}
	if err := boot.Bind("/init", agentFile); err != nil {
		return err
	}
	if err := os.RemoveAll(wire.ModuleFolder); err != nil { // it is memory
		return fmt.Errorf("free module archive: %w", err)
	}
	return boot.SwitchRoot(a.root.Dir)
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
