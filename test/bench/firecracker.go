//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// fireMiB is the memory of the guests that Firecracker and QEMU run here.
	fireMiB = 512
	// bootTime bounds a boot: where KVM interprets the kernel it takes minutes.
	bootTime = 6 * time.Minute
	// mostBoots is how many machines of each kind come up: each takes a minute.
	mostBoots = 3
	// firePoll is how often a socket is tried that is not there yet.
	firePoll = 500 * time.Microsecond
)

// fire is what Firecracker is measured with.
type fire struct {
	folder    string // firecracker, vmlinux, arguments and cpu-config.json
	scratch   string // for folders of machines
	initrd    string // with the driver suite's guest, which opens its link and waits
	arguments string // what the kernel needs besides those of every guest
	cpu       json.RawMessage
	driver    *firecracker.Driver
	version   string
}

// startUp is how far a machine has come after which time; ready is 0 for one that was
// ended before.
type startUp struct{ api, running, ready time.Duration }

// firecracker compares Firecracker in SmolVM's cage with one without any, and its memory
// with QEMU's.
func (b *bench) firecracker(ctx context.Context) (string, error) {
	const title = "## Firecracker\n\n"
	f, why, err := b.newFire(ctx)
	if err != nil {
		return "", err
	}
	if why != "" {
		return title + "Not measured: " + why + ".\n", nil
	}
	times, err := b.startUps(ctx, f)
	var memory string
	if err == nil {
		memory, err = b.residents(ctx, f)
	}
	if err != nil { // as where KVM runs no kernel at all
		return fmt.Sprintf("%sNot measured: a guest did not come up: %v.\n", title, err), ctx.Err()
	}
	return title + fmt.Sprintf("%s and the kernel of its tests, which is for computers whose KVM interprets what runs in a guest's kernel: times in which the guest runs say nothing of hosts with hardware virtualization. One processor, %d MiB, no disks and no network card; the guest is a static program that opens its link.\n\n%s\n%s", f.version, fireMiB, times, memory), nil
}

// newFire gathers the files, or says what is missing.
func (b *bench) newFire(ctx context.Context) (f *fire, missing string, err error) {
	f = &fire{folder: filepath.Join(b.scratch, "firecracker"), scratch: b.scratch, initrd: filepath.Join(b.scratch, "firecracker.cpio")}
	out, err := exec.CommandContext(ctx, "scripts/test-firecracker", "--folder", f.folder).CombinedOutput()
	if err != nil {
		return nil, "", fmt.Errorf("scripts/test-firecracker: %w\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(f.folder, "vmlinux")); err != nil {
		_, why, _ := strings.Cut(strings.TrimSpace(string(out)), ": ")
		return nil, cmp.Or(why, "the files for it could not be gathered"), nil
	}
	arguments, err := os.ReadFile(filepath.Join(f.folder, "arguments"))
	if err != nil {
		return nil, "", err
	}
	f.arguments = strings.TrimSpace(string(arguments))
	if f.cpu, err = os.ReadFile(filepath.Join(f.folder, "cpu-config.json")); err != nil {
		return nil, "", err
	}
	runner := process.New(process.Options{
		Environ: os.Environ(), Self: b.smolvm, Places: map[process.Tool]string{process.Firecracker: f.program()},
	})
	if err := cage.Try(ctx, runner); err != nil {
		return nil, err.Error(), nil
	}
	f.driver = firecracker.New(firecracker.Options{Runner: runner, Random: rand.Reader, CPU: f.cpu, Arguments: f.arguments})
	p, err := f.driver.Describe(ctx)
	if err != nil {
		return nil, "", err
	}
	f.version = "Firecracker " + p.Version
	return f, "", f.makeInitrd(ctx)
}

func (f *fire) program() string { return filepath.Join(f.folder, "firecracker") }

func (f *fire) kernel() string { return filepath.Join(f.folder, "vmlinux") }

func (f *fire) makeInitrd(ctx context.Context) error {
	program := f.initrd + ".init"
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/vmm/conformance/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest: %w\n%s", err, out)
	}
	guest, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return disk.Initrd(f.initrd, guest, "", nil)
}

// startUps starts machines in turn: many that are ended as soon as they run, a few that
// come up.
func (b *bench) startUps(ctx context.Context, f *fire) (string, error) {
	var api, running, ready [2]series
	for round := range 10 * b.rounds {
		whole := round < min(b.rounds, mostBoots)
		for i, start := range []starter{f.startCaged, f.startBare} {
			m, s, err := start(ctx, whole)
			if err == nil {
				err = m.end()
			}
			if err != nil {
				return "", err
			}
			api[i], running[i] = append(api[i], s.api), append(running[i], s.running)
			if whole {
				ready[i] = append(ready[i], s.ready)
			}
		}
	}
	text := "| from the process's start until | in SmolVM's cage | without a cage | ratio |\n|---|---|---|---|\n"
	for _, row := range []struct {
		name  string
		times [2]series
	}{{"its API answers", api}, {"the guest runs, all of it set", running}, {"the guest's link is open", ready}} {
		text += fmt.Sprintf("| %s | %s | %s | %.2f |\n", row.name, row.times[0], row.times[1], ratio(row.times[0], row.times[1]))
	}
	return text, nil
}

// spec is the machine as the driver starts it.
func (f *fire) spec(runDir string) vmm.Spec {
	return vmm.Spec{
		Name: "bench", Arch: "amd64", Accel: vmm.KVM, CPUs: 1, MemoryMiB: fireMiB,
		Kernel: f.kernel(), Initrd: f.initrd, CommandLine: "quiet", RunDir: runDir, Console: io.Discard,
	}
}

// machine is one that runs, and what has to be ended with it.
type machine struct {
	pid  int
	link net.Conn // nil: it was not waited for
	kill func() error
}

func (m *machine) end() error {
	if m.link != nil {
		_ = m.link.Close()
	}
	return m.kill()
}

// starter starts a machine, and waits for its guest's link where the whole is wanted.
type starter = func(ctx context.Context, whole bool) (*machine, startUp, error)

// startCaged starts a machine as SmolVM does.
func (f *fire) startCaged(ctx context.Context, whole bool) (_ *machine, s startUp, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	dir, err := os.MkdirTemp(f.scratch, "fire-")
	if err != nil {
		return nil, s, err
	}
	begun, answered := time.Now(), make(chan error, 1)
	go func() {
		err := awaitAPI(ctx, filepath.Join(dir, "vm", "api"))
		s.api = time.Since(begun)
		answered <- err
	}()
	started, err := f.driver.Start(ctx, f.spec(dir))
	s.running = time.Since(begun)
	if err != nil {
		cancel()
		<-answered
		return nil, s, err
	}
	m := &machine{pid: started.Pid(), kill: started.Kill}
	if err = <-answered; err == nil && whole {
		m.link, err = started.Link(ctx)
		s.ready = time.Since(begun)
	}
	if err != nil {
		return nil, s, errors.Join(err, m.end())
	}
	return m, s, nil
}

// startBare says to Firecracker what the driver says.
func (f *fire) startBare(ctx context.Context, whole bool) (_ *machine, s startUp, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	dir, err := os.MkdirTemp(f.scratch, "fire-")
	if err != nil {
		return nil, s, err
	}
	api, vsock, log := filepath.Join(dir, "api"), filepath.Join(dir, "vsock"), filepath.Join(dir, "log")
	door, err := net.Listen("unix", fmt.Sprintf("%s_%d", vsock, wire.VsockPort))
	if err != nil {
		return nil, s, err
	}
	defer door.Close()
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return nil, s, err
	}
	cmd := exec.Command(f.program(), "--id", "smolvm", "--api-sock", api, "--level", "Info", "--log-path", log)
	begun := time.Now()
	m, err := started(cmd)
	if err != nil {
		return nil, s, err
	}
	if err = awaitAPI(ctx, api); err == nil {
		s.api = time.Since(begun)
		err = f.configure(ctx, api, vsock)
		s.running = time.Since(begun)
	}
	if err == nil && whole {
		m.link, err = welcome(ctx, door)
		s.ready = time.Since(begun)
	}
	if err != nil {
		return nil, s, errors.Join(err, m.end())
	}
	return m, s, nil
}

// started starts a program as a machine, which ends with this process.
func started(cmd *exec.Cmd) (*machine, error) {
	child, err := process.StartBound(cmd)
	if err != nil {
		return nil, err
	}
	return &machine{pid: child.Pid(), kill: func() error { child.Kill(); return nil }}, nil
}

// bareToken is known to guests of bare machines.
const bareToken = "00000000000000000000000000000000"

func (f *fire) configure(ctx context.Context, api, vsock string) error {
	type object = map[string]any
	settings := []struct {
		path string
		body any
	}{
		{"/machine-config", object{"vcpu_count": 1, "mem_size_mib": fireMiB}},
		{"/boot-source", object{"kernel_image_path": f.kernel(), "initrd_path": f.initrd, "boot_args": strings.Join([]string{
			firecracker.BootArguments, f.arguments, "quiet", wire.OptVsock + "=" + bareToken,
		}, " ")}},
		{"/vsock", object{"guest_cid": 3, "uds_path": vsock}},
		{"/entropy", object{}},
		{"/balloon", object{"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 5}},
		{"/cpu-config", f.cpu},
		{"/actions", object{"action_type": "InstanceStart"}},
	}
	client := unixClient(api)
	defer client.CloseIdleConnections()
	for _, s := range settings {
		if s.path == "/cpu-config" && len(f.cpu) == 0 {
			continue
		}
		text, err := json.Marshal(s.body)
		if err != nil {
			return err
		}
		if err := ask(ctx, client, http.MethodPut, s.path, text); err != nil {
			return err
		}
	}
	return nil
}

// welcome lets the guest in and waits for no more.
func welcome(ctx context.Context, door net.Listener) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = door.Close() })
	defer stop()
	conn, err := door.Accept()
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	purpose, nonce, ok := wire.CheckVsockHello(bareToken, line)
	if err == nil && !ok {
		err = fmt.Errorf("the guest says %q", line)
	}
	if err == nil {
		_, err = io.WriteString(conn, wire.VsockAnswer(bareToken, purpose, nonce))
	}
	return conn, err
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
}

// awaitAPI waits for the first answer on a socket that is not there yet.
func awaitAPI(ctx context.Context, socket string) error {
	client := unixClient(socket)
	defer client.CloseIdleConnections()
	for {
		err := ask(ctx, client, http.MethodGet, "/version", nil)
		if err == nil {
			return nil
		}
		if pause(ctx, firePoll) != nil {
			return fmt.Errorf("no answer of Firecracker: %w", err)
		}
	}
}

func ask(ctx context.Context, client *http.Client, method, path string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s", method, path, said)
	}
	return err
}
