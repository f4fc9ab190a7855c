// Package conformance is what every vmm.Driver has to pass. A driver's test
// calls Run with itself and the files of a test machine whose only program is
// the interpreter of the guest package; a machine is started a handful of times.
//
// It is imported by tests only.
package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
	"github.com/smolvm/smolvm/internal/wire"
)

// Setup is the driver under test and what it runs.
type Setup struct {
	Driver vmm.Driver
	Arch   string
	Accel  vmm.Accel
	Kernel string // paths; empty for a driver that needs none
	Initrd string
	Boot   time.Duration // longest time from Start to the open link
	// Process says that machines are processes of their own, which can be killed.
	Process bool
	// Left lists what started machines left running; nil when nothing can be.
	Left func() []string
	// CPUs are the processors of a machine; 0: two.
	CPUs int
	// Bulk is how much crosses a link each way, in bytes; 0: 10 MiB.
	Bulk int64
	// Differ says that machines are vmm.Differs; elsewhere a Spec that asks for it is
	// refused.
	Differ bool
	// Written tells how many bytes the monitor of a machine has written to files; nil:
	// that says nothing about its snapshots.
	Written func(t *testing.T, m vmm.Machine) int64
}

func (s Setup) cpus() int {
	if s.CPUs == 0 {
		return 2
	}
	return s.CPUs
}

// marker is on the kernel command line of every test machine.
const marker = "conformance.marker=1"

// Sizes of the test drives: small, and different so that they cannot be mixed up.
const (
	layerBytes   = 3 << 20
	scratchBytes = 5 << 20
)

// Run runs the suite.
func Run(t *testing.T, s Setup) {
	layer := makeDrive(t, "layer0.img", layerBytes, "the base layer")
	t.Run("Life", func(t *testing.T) { life(t, s, layer) })
	t.Run("SharedLayerAndKill", func(t *testing.T) { shared(t, s, layer) })
	if _, ok := s.Driver.(vmm.Restorer); ok {
		t.Run("Snapshot", func(t *testing.T) { kept(t, s, layer) })
	}
	t.Run("MissingFile", func(t *testing.T) { missing(t, s) })
	t.Run("CancelledStart", func(t *testing.T) { cancelled(t, s) })
	if s.Process {
		t.Run("KilledFromOutside", func(t *testing.T) { killed(t, s) })
	}
}

// bench is one test machine under test.
type bench struct {
	setup   Setup
	spec    vmm.Spec
	machine vmm.Machine
	console *buffer
	scratch string
	network *uplink // nil: its card does not end here
}

func newSpec(t *testing.T, s Setup, layer string) (vmm.Spec, *buffer) {
	console := newBuffer()
	return vmm.Spec{
		Name: "conformance", Arch: s.Arch, Accel: s.Accel, CPUs: s.cpus(), MemoryMiB: 512,
		Kernel: s.Kernel, Initrd: s.Initrd, CommandLine: "quiet " + marker + " " + wire.OptDrives + "=layer0," + wire.ScratchRole,
		Drives: []vmm.Drive{
			{ID: "layer0", Path: layer, ReadOnly: true},
			{ID: wire.ScratchRole, Path: makeDrive(t, "scratch, with a comma.img", scratchBytes, "")},
		},
		Network: true, RunDir: t.TempDir(), Console: console,
	}, console
}

func start(t *testing.T, s Setup, layer string) *bench {
	t.Helper()
	spec, console := newSpec(t, s, layer)
	return startSpec(t, s, spec, console)
}

func startSpec(t *testing.T, s Setup, spec vmm.Spec, console *buffer) *bench {
	t.Helper()
	m, err := s.Driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return newBench(t, s, spec, console, m)
}

// newBench is a machine that runs; it ends with the test.
func newBench(t *testing.T, s Setup, spec vmm.Spec, console *buffer, m vmm.Machine) *bench {
	t.Helper()
	t.Cleanup(func() {
		_ = m.Kill()
		if t.Failed() {
			t.Logf("console:\n%s", console)
		}
	})
	return &bench{setup: s, spec: spec, machine: m, console: console, scratch: spec.Drives[1].Path, network: connect(t, m)}
}

// link opens the next session.
func (b *bench) link(t *testing.T) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), b.setup.Boot)
	defer cancel()
	conn, err := b.machine.Link(ctx)
	if err != nil {
		if ctx.Err() == nil { // it ended, and says why
			err = errors.Join(err, b.machine.Wait())
		}
		t.Fatalf("no link: %v\nconsole:\n%s", err, b.console)
	}
	return newClient(t, conn)
}

// life takes one machine through all it can do.
func life(t *testing.T, s Setup, layer string) {
	b := start(t, s, layer)
	c := b.link(t)
	first := c.look(t)
	t.Logf("kernel up %d ms when asked, %d ms of guest CPU", first.UptimeMS, first.SystemMS)
	t.Run("Devices", func(t *testing.T) { devices(t, s, first) })
	t.Run("ReadOnlyLayer", func(t *testing.T) { readOnly(t, c, layer) })
	t.Run("Scratch", func(t *testing.T) { writable(t, c, b.scratch) })
	t.Run("Grow", func(t *testing.T) { growing(t, b, c) })
	t.Run("Console", func(t *testing.T) { sayings(t, c, b.console) })
	t.Run("Bulk", func(t *testing.T) { bulk(t, c, s) })
	t.Run("Network", func(t *testing.T) { talk(t, c, b.network, s.Bulk) })
	if t.Failed() {
		return // the session's state is unknown
	}
	t.Run("Reopen", func(t *testing.T) { c = reopen(t, b, c, first) })
	t.Run("Reboot", func(t *testing.T) { c = reboot(t, b, c, first) })
	t.Run("PowerOff", func(t *testing.T) { powerOff(t, b, c) })
}

func devices(t *testing.T, s Setup, info guest.Info) {
	if info.Arch != s.Arch || info.CPUs != s.cpus() {
		t.Errorf("%s guest with %d processors, want %s and %d", info.Arch, info.CPUs, s.Arch, s.cpus())
	}
	if info.MemoryMiB < 400 || info.MemoryMiB > 512 {
		t.Errorf("%d MiB of memory, want a little below 512", info.MemoryMiB)
	}
	if !strings.Contains(info.CommandLine, marker) {
		t.Errorf("command line %q lacks %q", info.CommandLine, marker)
	}
	if info.Networks != 1 || !info.Random {
		t.Errorf("%d network cards, random source %v; want 1 and true", info.Networks, info.Random)
	}
	want := map[string]guest.Drive{
		"layer0":  {ID: "layer0", Bytes: layerBytes, ReadOnly: true},
		"scratch": {ID: "scratch", Bytes: scratchBytes},
	}
	if len(info.Drives) != len(want) {
		t.Errorf("drives %v, want %v", info.Drives, want)
	}
	for _, d := range info.Drives {
		if d != want[d.ID] {
			t.Errorf("drive %+v, want %+v", d, want[d.ID])
		}
	}
}

func readOnly(t *testing.T, c *client, layer string) {
	if got := c.ask(t, guest.Request{Op: guest.Read, Drive: "layer0", N: 14}); string(got.Data) != "the base layer" {
		t.Errorf("read %q (%s) from the layer", got.Data, got.Error)
	}
	if got := c.ask(t, guest.Request{Op: guest.Write, Drive: "layer0", Data: []byte("defaced")}); got.Error == "" {
		t.Error("a write to a read-only layer was accepted")
	}
	if text := readDrive(t, layer, 14); text != "the base layer" {
		t.Errorf("the layer's file now starts with %q", text)
	}
}

func writable(t *testing.T, c *client, scratch string) {
	if got := c.ask(t, guest.Request{Op: guest.Write, Drive: "scratch", Data: []byte("kept"), Offset: 4096}); got.Error != "" {
		t.Fatal(got.Error)
	}
	if text := readDrive(t, scratch, 4100); text[4096:] != "kept" {
		t.Errorf("a flushed write did not reach the file: %q", text[4096:])
	}
}

// growing makes the scratch larger while the machine runs, where it can.
func growing(t *testing.T, b *bench, c *client) {
	machine, ok := b.machine.(vmm.Grower)
	if !ok {
		t.Skip("its drives have one size")
	}
	const size = 3 * scratchBytes
	if err := os.Truncate(b.scratch, size); err != nil {
		t.Fatal(err)
	}
	if err := machine.GrowDrive(t.Context(), "scratch", size); err != nil {
		t.Fatal(err)
	}
	var has int64
	for range 100 { // the guest's kernel hears of it when it gets to it
		for _, d := range c.look(t).Drives {
			if d.ID == "scratch" {
				has = d.Bytes
			}
		}
		if has == size {
			break
		}
	}
	if has != size {
		t.Errorf("the guest sees %d bytes, want %d", has, size)
	}
	if got := c.ask(t, guest.Request{Op: guest.Write, Drive: "scratch", Data: []byte("new"), Offset: size - 4096}); got.Error != "" {
		t.Errorf("write to what is new: %s", got.Error)
	}
	if err := machine.GrowDrive(t.Context(), "nothere", size); err == nil {
		t.Error("a drive that is not there has grown")
	}
}

// sayings checks that console text arrives, also when there is much of it.
func sayings(t *testing.T, c *client, console *buffer) {
	flood := strings.Repeat("0123456789abcdef\n", 256)
	if got := c.ask(t, guest.Request{Op: guest.Say, Text: flood + "the last words\n"}); got.Error != "" {
		t.Fatal(got.Error)
	}
	if !console.waitFor("the last words", 30*time.Second) {
		t.Errorf("console lacks what the guest wrote:\n%s", console)
	}
}

// bulk moves bytes both ways and compares each. How fast is only said.
func bulk(t *testing.T, c *client, s Setup) {
	n := s.Bulk
	if n == 0 {
		n = 10 << 20
	}
	for _, way := range []struct {
		name string
		move func(*testing.T, int64)
	}{{"guest to host", c.receive}, {"host to guest", c.send}} {
		begun := time.Now()
		way.move(t, n)
		t.Logf("%s: %.0f MB/s", way.name, float64(n)/time.Since(begun).Seconds()/1e6)
	}
}

// reopen checks that closing and opening the port ends one session and starts
// another, with stale bytes of the host's in between.
func reopen(t *testing.T, b *bench, c *client, before guest.Info) *client {
	c.end(t, guest.Reopen, "stale bytes of an old session\n")
	next := b.link(t)
	if got := next.look(t).BootID; got != before.BootID {
		t.Errorf("boot %s after reopening the port, want %s still", got, before.BootID)
	}
	return next
}

func reboot(t *testing.T, b *bench, c *client, before guest.Info) *client {
	c.end(t, guest.Reboot, "")
	next := b.link(t)
	if got := next.look(t).BootID; got == before.BootID {
		t.Errorf("boot %s after a reboot, want another", got)
	}
	if b.network != nil {
		talk(t, next, b.network, b.setup.Bulk)
	}
	if got := next.ask(t, guest.Request{Op: guest.Read, Drive: "scratch", Offset: 4096, N: 4}); string(got.Data) != "kept" {
		t.Errorf("scratch holds %q after a reboot (%s)", got.Data, got.Error)
	}
	return next
}

func powerOff(t *testing.T, b *bench, c *client) {
	c.end(t, guest.PowerOff, "")
	if err := waitEnd(t, b.machine); err != nil {
		t.Errorf("Wait after power-off: %v", err)
	}
	if _, err := b.machine.Link(t.Context()); err == nil {
		t.Error("Link of an ended machine gave a session")
	}
	if err := b.machine.Kill(); err != nil {
		t.Errorf("Kill of an ended machine: %v", err)
	}
	nothingLeft(t, b.setup, b.spec.RunDir)
}

// shared starts two machines on one layer, and kills both in the middle.
func shared(t *testing.T, s Setup, layer string) {
	benches := []*bench{start(t, s, layer), start(t, s, layer)}
	for _, b := range benches {
		c := b.link(t)
		if got := c.ask(t, guest.Request{Op: guest.Read, Drive: "layer0", N: 14}); string(got.Data) != "the base layer" {
			t.Errorf("read %q (%s) from the shared layer", got.Data, got.Error)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := c.conn.Read(make([]byte, 1))
			ended <- err
		}()
		if err := b.machine.Kill(); err != nil {
			t.Errorf("Kill: %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("a read of the killed machine's link brought data")
		}
		if err := waitEnd(t, b.machine); err != nil {
			t.Errorf("Wait after Kill: %v", err)
		}
	}
	nothingLeft(t, s, benches[0].spec.RunDir)
}

func missing(t *testing.T, s Setup) {
	spec, _ := newSpec(t, s, filepath.Join(t.TempDir(), "absent.img"))
	m, err := s.Driver.Start(t.Context(), spec)
	if err == nil {
		_ = m.Kill()
		t.Fatal("a machine without its layer started")
	}
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "absent.img") {
		t.Errorf("error %q does not name what is missing", err)
	}
}

// cancelled cancels starts at several moments.
func cancelled(t *testing.T, s Setup) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		spec, _ := newSpec(t, s, makeDrive(t, "layer0.img", layerBytes, ""))
		m, err := s.Driver.Start(ctx, spec)
		cancel()
		switch {
		case err == nil: // the start was quicker
			_ = m.Kill()
		case !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("start cancelled after %s: %v", after, err)
		}
		nothingLeft(t, s, spec.RunDir)
	}
}

func killed(t *testing.T, s Setup) {
	b := start(t, s, makeDrive(t, "layer0.img", layerBytes, ""))
	if err := syscall.Kill(b.machine.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := waitEnd(t, b.machine); err == nil {
		t.Error("Wait of a machine killed from outside says that it ended well")
	}
	if _, err := b.machine.Link(t.Context()); err == nil {
		t.Error("Link of a killed machine gave a session")
	}
	nothingLeft(t, s, b.spec.RunDir)
}

// waitEnd is Wait with a bound.
func waitEnd(t *testing.T, m vmm.Machine) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- m.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the machine did not end")
		return nil
	}
}

func nothingLeft(t *testing.T, s Setup, runDir string) {
	t.Helper()
	files, err := os.ReadDir(runDir)
	if err != nil || len(files) > 0 {
		t.Errorf("left in the run folder: %v %v", files, err)
	}
	if s.Left != nil {
		if left := s.Left(); len(left) > 0 {
			t.Errorf("left running: %q", left)
		}
	}
}

func makeDrive(t *testing.T, name string, size int64, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func readDrive(t *testing.T, path string, n int) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	p := make([]byte, n)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// buffer is a console that can be waited on.
type buffer struct {
	mu    sync.Mutex
	text  strings.Builder
	grown chan struct{} // closed and replaced at every write
}

func newBuffer() *buffer { return &buffer{grown: make(chan struct{})} }

// Write appends and wakes those who wait.
func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(p)
	close(b.grown)
	b.grown = make(chan struct{})
	return len(p), nil
}

// String is all that was written.
func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// waitFor waits until text was written.
func (b *buffer) waitFor(text string, limit time.Duration) bool {
	deadline := time.After(limit)
	for {
		b.mu.Lock()
		found, grown := strings.Contains(b.text.String(), text), b.grown
		b.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-grown:
		case <-deadline:
			return false
		}
	}
}
