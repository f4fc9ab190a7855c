package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/doctor"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/release"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/treecopy"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// fakeTime is when the tests of this package take place.
var fakeTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// fakeWorld is the rooms below the command line, in memory. It writes down what
// is asked of it.
type fakeWorld struct {
	app       *App
	out, errs bytes.Buffer
	files     string // the guest's, for cp
	log       []string
	created   []sandbox.Spec
	meanwhile func() // what another process does while this one waits for its turn
	turns     int    // taken and not given back
	boxes     map[string]sandbox.Status
	rows      []manifest.Row

	cache     store.State
	bad       []int // frames that verify finds to be wrong
	pruned    store.Pruned
	removeErr error
	seen      catalogues
	changes   sandbox.Changes
	able      error
	unsound   error // what the VMM says of itself
	altered   error // what looking at an image's files finds
	kvm       host.Verdict
	ownBuilds bool    // SMOLVM_USE_PUBLISHED=0
	createErr []error // of the next creations
	startErr  error
	catalogue error
	program   func(supervise.Command, supervise.Streams) (int, error)
	given     *wire.Credentials // at the last start or later
	kept      []escrow.Secret
	sources   []string
	logins    []supervise.Login // as the sandbox has them
	environ   map[string]string
	listening []wire.Listening
	usage     func(ctx context.Context, name string, take func(wire.Usage) bool) error
	variables map[string][]string // that env keeps
	taken     int                 // a port of this computer
	// programCtx stands in for program where its context matters.
	programCtx func(context.Context, supervise.Command, supervise.Streams) (int, error)
	started    func(ctx context.Context)
	proxied    func(ctx context.Context) error
	old        bool // supervisors keep no sessions
	sessions   map[string][]wire.KeptSession
	idle       supervise.Idle // of every sandbox that runs
	wakeErr    error
	troubles   []record.Trouble     // of every sandbox that runs
	order      sandbox.StartOptions // of the last start
	loopback   map[int]string       // of the sandbox, by port
}

func newWorld(t *testing.T) *fakeWorld {
	t.Helper()
	w := &fakeWorld{boxes: map[string]sandbox.Status{}, rows: []manifest.Row{fakeRow("claude-code")}, cache: store.Ready}
	w.pruned = store.Pruned{
		Images: []string{"2025.9/claude-code-amd64-qemu"}, Objects: 1, Partials: 1, Freed: 3 << 30,
		Items: []store.PrunedItem{
			{Kind: "object", Name: "base 0123456789ab", Bytes: 2 << 30},
			{Kind: "partial", Name: "abcdef012345", Bytes: 1 << 30},
			{Kind: "image", Name: "2025.9/claude-code-amd64-qemu", Bytes: 8 << 10},
		},
		Held: []store.Held{
			{Name: "2025.9/codex-amd64-qemu", By: "sandbox off"},
			{Name: "kernel 0123456789ab", By: "sandbox off"},
		},
	}
	w.idle = supervise.Idle{After: 10 * time.Minute, Stops: fakeTime.Add(8*time.Minute + 30*time.Second)}
	w.program = func(supervise.Command, supervise.Streams) (int, error) { return 0, nil }
	w.app = &App{
		Outside: Outside{
			Streams: &ui.Streams{In: strings.NewReader(""), Out: &w.out, Err: &w.errs, Term: "xterm"},
			Self:    "/opt/smol vm/smolvm",
			Now:     func() time.Time { return fakeTime },
		},
		Build: Build{Version: "1.2.3", Commit: "abcdef", Agent: func(arch string) ([]byte, error) {
			if arch == "arm64" {
				return nil, errors.New("not built in")
			}
			return []byte("agent"), nil
		}, AgentDigest: func(arch string) (string, error) {
			if arch == "arm64" {
				return "", errors.New("not built in")
			}
			return strings.Repeat("ab", 32), nil
		}},
		rooms: w.rooms(t.TempDir()),
	}
	return w
}

func (w *fakeWorld) rooms(home string) *rooms {
	return &rooms{
		Config: func() (config.Config, error) {
			return config.Config{Home: home, UsePublished: !w.ownBuilds, Getenv: func(name string) string { return w.environ[name] }}, nil
		},
		AllPresets: func() ([]preset.Preset, error) { return fakePresets(), nil },
		Sandboxes:  func() (sandboxes, error) { return w, nil },
		Catalogue: func(context.Context) (resolve.Catalogue, error) {
			w.note("catalogue")
			if w.catalogue != nil {
				return resolve.Catalogue{}, w.catalogue
			}
			return resolve.Catalogue{
				Address: "https://u:p@example.org/manifest.json", Signers: []string{"0123456789ABCDEF"}, Root: trust.Root{Version: 2},
				Places: []string{"https://u:p@example.org/manifest.json", "https://mirror.example/manifest.json"},
				Manifest: manifest.Manifest{
					Release: "2026.1", Serial: 12, MinVersion: "0.1.0", Rows: w.rows,
					Created: fakeTime.Add(-49 * time.Hour), Expires: fakeTime.Add(240 * time.Hour),
				},
			}, nil
		},
		Pull: func(_ context.Context, _ resolve.Catalogue, row manifest.Row, keep bool) (record.Image, lease, error) {
			w.note("pull %s", row.Preset)
			if keep {
				w.note("keep archive")
			}
			return record.Image{
				Release: "2026.1", Kernel: "/store/kernel", KernelVersion: row.Kernel.Version, StandIn: row.Kernel.StandIn,
				Layers: []record.Layer{{Name: "base", Path: "/store/base", SHA256: "ab"}},
			}, fakeLease{w}, nil
		},
		Built: func(localBuild, manifest.Row) bool { return false },
		BuildHere: func(_ context.Context, b localBuild) (manifest.Row, record.Image, lease, error) {
			w.note("build %s: %s", b.preset.Name, b.why)
			return fakeRow(b.preset.Name), record.Image{Release: "local"}, fakeLease{w}, nil
		},
		Intact: func(context.Context, record.Image) error { return w.altered },
		Cached: func() ([]store.Image, error) {
			return []store.Image{{
				View: store.View{Schema: 1, Release: "2026.1", Preset: "claude-code", Arch: "amd64", VMM: "qemu"},
				Path: "/images", Size: 3 << 30, Allocated: 1 << 30,
			}}, nil
		},
		Lookup: func(_ context.Context, key string) (store.Object, error) {
			return store.Object{Key: key, State: w.cache, Path: "/store/objects/" + key + "/content", Allocated: 1 << 20}, nil
		},
		Verify: func(_ context.Context, images []store.Image) ([]acquire.Report, error) {
			w.note("verify %d", len(images))
			reports := []acquire.Report{{Name: "kernel", Path: "/objects/ab/content", Images: []string{"/images"}, Size: 40 << 20, Frames: 5}}
			if w.bad != nil {
				reports = append(reports, acquire.Report{
					Name: "base.ext4", Path: "/objects/cd/content", Images: []string{"/images"}, Size: 1 << 30, Frames: 128,
					Bad: w.bad, Fault: fmt.Sprintf("%d of 128 frames are wrong", len(w.bad)),
				})
			}
			return reports, nil
		},
		Save: func(_ context.Context, _ resolve.Catalogue, images []release.Image, path string, out io.Writer) (release.Saved, error) {
			w.note("save %v to %s", images, path)
			if path == "" {
				_, _ = io.WriteString(out, "tar")
			}
			return release.Saved{Address: "/m.json", Release: "2026.1", Serial: 3, Images: images, Bytes: 5 << 20}, nil
		},
		Load: func(_ context.Context, in io.Reader) (release.Loaded, error) {
			raw, err := io.ReadAll(in)
			w.note("load %s", raw)
			return release.Loaded{
				Address: "/m.json", Release: "2026.1", Signers: []string{"0123456789ABCDEF"},
				Images: []release.Image{{Preset: "claude-code", Arch: "amd64", VMM: "qemu"}},
			}, err
		},
		Mirror: func(_ context.Context, _ resolve.Catalogue, dest string) (release.Mirrored, error) {
			w.note("mirror %s", dest)
			return release.Mirrored{Address: dest + "/manifest.json", Release: "2026.1", Files: 9, Bytes: 3 << 20, Copied: 1 << 20}, nil
		},
		Prune: func(_ context.Context, o store.PruneOptions) (store.Pruned, error) {
			w.note("prune all=%v dry=%v keep=%d current=%v", o.All, o.DryRun, o.Keep, o.Current)
			return w.pruned, nil
		},
		Remove: func(_ context.Context, images []store.Image, dryRun bool) (store.Pruned, error) {
			for _, image := range images {
				w.note("remove %s dry=%v", image.Name(), dryRun)
			}
			return w.pruned, w.removeErr
		},
		Current:  func() ([]string, []string, error) { return []string{"2026.1"}, nil, nil },
		SeenLast: func() catalogues { return w.seen },
		AskNewer: func(context.Context, record.Image) func() { return func() {} },
		OnDisk:   func(string) int64 { return 1536 << 20 },
		Machine: func(arch, backend string) (machine, error) {
			if backend != "" && backend != "qemu" {
				return machine{}, refuse("", "no backend %q", backend)
			}
			return machine{arch: cmp.Or(arch, "amd64"), vmm: "qemu", cpus: 4, memoryMiB: 8192}, nil
		},
		Able:    func(machine) error { return w.able },
		Program: func(context.Context, machine) (*record.Program, error) { return nil, nil }, //nolint:nilnil // nothing is kept
		Sound: func(context.Context, machine) error {
			w.note("ask the VMM")
			return w.unsound
		},
		Accel: func(context.Context, machine, manifest.Row, record.Image) (vmm.Accel, string, error) {
			return vmm.TCG, "/dev/kvm is not there", nil
		},
		KVM: func(context.Context, host.KVMOptions) (host.Verdict, error) {
			return host.Verdict{Reason: "there is no /dev/kvm"}, nil
		},
		Host: func() host.Info { return host.Info{OS: "linux", Arch: "amd64", CPUs: 4, MemoryMiB: 8192} },
		PortFree: func(_ context.Context, f port.Forward) error {
			if f.Host == w.taken && f.Host != 0 && !f.Any {
				return fault.New(fault.Conflict, "Name another.", "port %d is taken by curl (process 7)", f.Host)
			}
			return nil
		},
		Facts: func(context.Context) (doctor.Facts, error) { return w.facts(home), nil },
	}
}

// facts are those of a computer that runs sandboxes well.
func (w *fakeWorld) facts(home string) doctor.Facts {
	return doctor.Facts{
		Host:   host.Info{OS: "linux", Arch: "amd64", CPUs: 4, MemoryMiB: 8192},
		Survey: host.Survey{OpenFiles: 4096, Watches: 8192, Synced: true}, User: "ana",
		Backend: "qemu, as this version drives no other", Firecracker: "Firecracker 1.12.1 (/usr/bin/firecracker)", FirecrackerSum: "ab12",
		Emulator: "QEMU 9.2.0 (/usr/bin/qemu-system-x86_64)", KVM: w.kvm,
		Boot: doctor.Boot{Accel: "kvm", Took: 420 * time.Millisecond, Kernel: "6.12.1-cloud"},
		Home: doctor.Home{
			Path: home, Exists: true, Mode: 0o777,
			Folder: host.Folder{FreeBytes: 50 << 30, HardLinks: true, Holes: true, Locks: true},
		},
		Catalogue: doctor.Catalogue{
			Address: "/images/manifest.json", Release: "2026.1", Signers: []string{"A1"},
			Expires: fakeTime.AddDate(1, 0, 0), Image: true, Base: true, Missing: 180 << 20, Expands: 900 << 20,
		},
		Groups: cgroup.Outlook{Why: fault.New(fault.Host, "Let the user's own systemd stay: loginctl enable-linger.",
			"the control group of this login, /user.slice/user-1000.slice/session-3.scope, was not given to its user")},
		Now: fakeTime, Built: fakeTime.AddDate(0, -1, 0),
	}
}

// fakeLease notes when it is given up.
type fakeLease struct{ world *fakeWorld }

func (l fakeLease) Release() error {
	l.world.note("give up")
	return nil
}

func fakePresets() []preset.Preset {
	var all []preset.Preset
	for _, p := range [][]string{
		{"claude-code", "claude"},
		{"codex"},
		{"hermes"},
		{"openclaw"},
		{"pi"},
	} {
		all = append(all, preset.Preset{
			Name: p[0], Aliases: p[1:], Summary: "The agent " + p[0], Launch: []string{p[0], "--yolo"},
			Resources: preset.Resources{MemoryMiB: 3072, DiskMiB: 20480},
		})
	}
	return all
}

func fakeRow(name string) manifest.Row {
	asset := manifest.Asset{
		Name:    "kernel",
		Archive: manifest.Blob{Digest: manifest.Digest{Size: 10 << 20}},
		Content: manifest.Digest{SHA256: hex.EncodeToString(sha256.New().Sum(nil)), Size: 40 << 20},
	}
	return manifest.Row{
		Preset: name, Arch: "amd64", VMM: "qemu", Agent: manifest.Agent{Name: name, Version: "9.8.7"},
		Kernel: manifest.Kernel{Version: "6.12.1-cloud", StandIn: "Debian's cloud kernel", Image: asset, Modules: &asset},
		Layers: []manifest.Asset{asset, asset},
	}
}

func (w *fakeWorld) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

// add puts a sandbox into the world.
func (w *fakeWorld) add(name, state string) {
	w.boxes[name] = sandbox.Status{State: state, Record: record.Record{
		Name: name, ID: "id-" + name, Preset: "claude-code", Arch: "amd64", VMM: "qemu", Accel: "tcg", Confinement: record.Caged,
		Limits: &record.Limits{Group: true, Memory: 3840 << 20, Processes: 162, Why: "there is no controller for cpu"},
		Agent:  record.Agent{Name: "claude-code", Version: "9.8.7"}, Launch: []string{"claude", "--yolo"},
		Image: record.Image{
			Release: "2026.1", KernelVersion: "6.12.1-cloud", StandIn: "Debian's cloud kernel",
			Layers: []record.Layer{{Name: "base", Path: "/store/base", SHA256: "ab"}},
		},
		CPUs: 2, MemoryMiB: 2048, DiskBytes: 20 << 30, Network: true, Created: fakeTime.Add(-3 * time.Hour),
		Boot: &wire.BootReport{Kernel: "6.12.1-cloud", UptimeMS: 2100},
	}}
}

// Turn waits for what the test lets another process do meanwhile.
func (w *fakeWorld) Turn(_ context.Context, _ string, waiting func()) (func() error, error) {
	if w.meanwhile != nil {
		waiting()
		w.meanwhile()
	}
	w.turns++
	return func() error { w.turns--; return nil }, nil
}

func (w *fakeWorld) Names() ([]string, error) {
	var names []string
	for name := range w.boxes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (w *fakeWorld) List() ([]sandbox.Status, error) {
	names, _ := w.Names()
	var all []sandbox.Status
	for _, name := range names {
		all = append(all, w.boxes[name])
	}
	return all, nil
}

func (w *fakeWorld) Get(name string) (sandbox.Status, error) { return w.boxes[name], nil }

func (w *fakeWorld) Create(_ context.Context, spec sandbox.Spec) (record.Record, error) {
	w.note("create %s", spec.Name)
	if len(w.createErr) > 0 {
		err := w.createErr[0]
		w.createErr = w.createErr[1:]
		if fault.CodeOf(err) == fault.Conflict {
			w.add(spec.Name, sandbox.Stopped)
		}
		return record.Record{}, err
	}
	w.created = append(w.created, spec)
	w.add(spec.Name, sandbox.Stopped)
	s := w.boxes[spec.Name]
	s.Launch, s.Forwards = spec.Launch, spec.Forwards
	w.boxes[spec.Name] = s
	return s.Record, nil
}

func (w *fakeWorld) Start(ctx context.Context, name string, o sandbox.StartOptions) (record.Record, error) {
	w.note("start %s %v", name, o.Timeout)
	w.given, w.order, w.kept, w.sources = o.Credentials, o, o.Secrets, o.Sources
	if w.started != nil {
		w.started(ctx)
	}
	if w.startErr != nil {
		return record.Record{}, w.startErr
	}
	w.set(name, sandbox.Running)
	return w.boxes[name].Record, nil
}

func (w *fakeWorld) set(name, state string) {
	s := w.boxes[name]
	s.State = state
	w.boxes[name] = s
}

func (w *fakeWorld) Stop(_ context.Context, name string, grace time.Duration) error {
	w.note("stop %s %v", name, grace)
	w.set(name, sandbox.Stopped)
	return nil
}

func (w *fakeWorld) Delete(ctx context.Context, name string) error {
	w.note("delete %s", name)
	delete(w.boxes, name)
	return ctx.Err()
}

func (w *fakeWorld) Rehost(name string, host sandbox.Host) (record.Record, error) {
	w.note("rehost %s on %s, %s", name, host.VMM, host.Accel)
	s := w.boxes[name]
	s.VMM, s.Accel, s.VMMProgram = host.VMM, string(host.Accel), host.Program
	w.boxes[name] = s
	return s.Record, nil
}

func (w *fakeWorld) Resize(name string, size sandbox.Size) (record.Record, error) {
	w.note("resize %s %+v", name, size)
	s := w.boxes[name]
	s.CPUs = cmp.Or(size.CPUs, s.CPUs)
	s.MemoryMiB = cmp.Or(size.MemoryMiB, s.MemoryMiB)
	s.DiskBytes = cmp.Or(size.DiskBytes, s.DiskBytes)
	return s.Record, nil
}

func (w *fakeWorld) Grow(_ context.Context, name string, size int64) (record.Record, error) {
	w.note("grow %s %d", name, size)
	s := w.boxes[name]
	s.DiskBytes = size
	w.boxes[name] = s
	return s.Record, nil
}

func (w *fakeWorld) Update(name string, image record.Image, agent record.Agent) (record.Record, error) {
	w.note("update %s to %s %s", name, image.Release, agent.Version)
	return w.boxes[name].Record, nil
}

func (w *fakeWorld) Changes(string) (sandbox.Changes, error) { return w.changes, nil }

func (w *fakeWorld) Remount(_ context.Context, name string, change supervise.MountChange) (record.Record, error) {
	w.note("remount %s add=%v remove=%v", name, change.Add, change.Remove)
	s := w.boxes[name]
	mounts, err := change.Apply(name, s.Mounts, s.State == sandbox.Running)
	if err == nil {
		s.Mounts = mounts
		w.boxes[name] = s
	}
	return s.Record, err
}

func (w *fakeWorld) Network(_ context.Context, name string, change egress.Change) (netstack.Snapshot, error) {
	w.note("network %s %+v", name, change)
	s := w.boxes[name]
	s.Egress = s.Egress.With(change)
	w.boxes[name] = s
	snapshot := netstack.Snapshot{Policy: s.Egress}
	if s.State == sandbox.Running {
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		snapshot.Live = []netstack.Entry{{
			Time: at, Protocol: "tcp", To: "203.0.113.7:443", Name: "api.example", Verdict: netstack.Allowed, Sent: 1200, Received: 5 << 20, Milliseconds: 90000,
		}}
		snapshot.Refusals = []netstack.Entry{
			{Time: at, Protocol: "dns", Name: "evil.example", Verdict: netstack.Refused, Reason: "no rule allows the name", Rule: "evil.example"},
			{Time: at, Protocol: "tcp", To: "169.254.169.254:80", Verdict: netstack.Refused, Reason: "169.254.169.254 belongs to a metadata service", Rule: "169.254.169.254:80"},
			{Time: at, Protocol: "tcp", To: "203.0.113.9:443", Name: "a.example", Verdict: netstack.Refused, Reason: `the rule "*.example" denies it`, Rule: "*.example"},
			{Time: at, Protocol: "dns", Name: "b.example", Verdict: netstack.Refused, Reason: "the sandbox's network is off", Mode: egress.Open},
		}
	}
	return snapshot, nil
}

func (w *fakeWorld) Rename(_ context.Context, from, to string) error {
	w.note("rename %s %s", from, to)
	s := w.boxes[from]
	delete(w.boxes, from)
	s.Name = to
	w.boxes[to] = s
	return nil
}

func (w *fakeWorld) Fork(_ context.Context, from string, f sandbox.Fork) (all []record.Record, err error) {
	w.note("fork %s %q secrets=%v idle=%v", from, f.Names, f.Secrets, f.Idle)
	for _, name := range f.Names {
		s := w.boxes[from]
		s.Name = name
		w.boxes[name] = s
		all = append(all, s.Record)
	}
	return all, nil
}

// kept is a snapshot of box.
func (w *fakeWorld) keptBox() sandbox.Kept {
	r := w.boxes["box"].Record
	r.Name, r.Snapshot = "ready", &record.Snapshot{Of: "box", Secrets: true}
	return sandbox.Kept{Record: r, OnDisk: 200 << 20}
}

func (w *fakeWorld) Snapshot(_ context.Context, from, name string, secrets bool) (sandbox.Kept, error) {
	w.note("snapshot %s %s secrets=%v", from, name, secrets)
	k := w.keptBox()
	k.Name, k.Snapshot = name, &record.Snapshot{Of: from, Secrets: secrets}
	return k, nil
}

func (w *fakeWorld) Restore(_ context.Context, snapshot string, f sandbox.Fork) (record.Record, error) {
	w.note("restore %s %q idle=%v", snapshot, f.Names, f.Idle)
	s := w.boxes["box"]
	s.Name = f.Names[0]
	w.boxes[s.Name] = s
	return s.Record, nil
}

func (w *fakeWorld) Snapshots() ([]sandbox.Kept, error) {
	return []sandbox.Kept{w.keptBox(), {Record: record.Record{Name: "spoiled"}, Broken: "its record is damaged"}}, nil
}

func (w *fakeWorld) GetSnapshot(name string) (sandbox.Kept, error) {
	if name != "ready" {
		return sandbox.Kept{}, fault.New(fault.Conflict, "", "snapshot %q cannot be restored", name)
	}
	return w.keptBox(), nil
}

func (w *fakeWorld) RemoveSnapshot(name string) error {
	w.note("snapshot rm %s", name)
	return nil
}

func (w *fakeWorld) Ports(_ context.Context, name string, listening bool) (supervise.PortReport, error) {
	var r supervise.PortReport
	s := w.boxes[name]
	for _, f := range s.Forwards {
		failed := ""
		if s.State != sandbox.Running {
			failed = notRunning
		} else if f.Host == w.taken && !f.Any {
			failed = "it is taken"
		}
		r.Forwards = append(r.Forwards, supervise.PortState{Forward: f, Failed: failed})
	}
	if listening {
		r.Listening = w.listening
	}
	return r, nil
}

func (w *fakeWorld) Forward(ctx context.Context, name string, f port.Forward) (port.Forward, error) {
	w.note("forward %s %s", name, f)
	s := w.boxes[name]
	if f.Any && (f.Host == w.taken || f.Host == 0) {
		f.Host = 40000
	}
	if err := w.app.PortFree(ctx, f); err != nil {
		return f, err
	}
	s.Forwards = append(s.Forwards, f)
	w.boxes[name] = s
	return f, nil
}

func (w *fakeWorld) Environment(name string) ([]string, error) { return w.variables[name], nil }

func (w *fakeWorld) SetEnvironment(_ context.Context, name string, entries, names []string, values map[string]string) ([]string, error) {
	w.note("environment %s set=%v unset=%v values=%v", name, entries, names, values)
	if w.variables == nil {
		w.variables = map[string][]string{}
	}
	w.variables[name] = append(slices.DeleteFunc(slices.Clone(w.variables[name]), func(entry string) bool {
		return slices.Contains(names, sandbox.EntryName(entry))
	}), entries...)
	return w.variables[name], nil
}

func (w *fakeWorld) Unforward(_ context.Context, name string, f port.Forward) error {
	w.note("unforward %s %s", name, f)
	s := w.boxes[name]
	s.Forwards = slices.DeleteFunc(slices.Clone(s.Forwards), f.Same)
	w.boxes[name] = s
	return nil
}

func (w *fakeWorld) Connect(_ context.Context, name string) (session, error) {
	return fakeSession{w, name}, nil
}

// fakeSession is a connection to a sandbox of a fakeWorld.
type fakeSession struct {
	world *fakeWorld
	name  string
}

func (s fakeSession) Exec(ctx context.Context, c supervise.Command, streams supervise.Streams) (int, error) {
	kept := ""
	if c.Keep {
		kept = " session=" + c.Session
	}
	if c.New {
		kept += "+"
	}
	if s.world.turns > 0 {
		s.world.note("others still wait")
	}
	s.world.note("exec %s %s user=%s dir=%s tty=%v%s", s.name, strings.Join(c.Argv, " "), c.User, c.Dir, c.TTY, kept)
	if s.world.programCtx != nil {
		return s.world.programCtx(ctx, c, streams)
	}
	return s.world.program(c, streams)
}

func (s fakeSession) SSH(ctx context.Context, stream io.ReadWriter) error {
	s.world.note("ssh %s", s.name)
	if s.world.proxied != nil {
		return s.world.proxied(ctx)
	}
	_, err := io.Copy(stream, stream)
	return err
}

// Copy is a guest whose files are those of a folder of this computer.
func (s fakeSession) Copy(_ context.Context, r wire.Copy) (io.ReadWriteCloser, error) {
	s.world.note("copy %s %s %s %q user=%s", s.name, r.Op, r.Path, r.Name, r.User)
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		at := filepath.Join(s.world.files, r.Path)
		if r.Op == wire.CopySend {
			_, _ = treecopy.Send(there, at, nil)
			return
		}
		place, err := treecopy.Find(at, r.Name)
		var sum treecopy.Summary
		if err == nil {
			sum, err = treecopy.Receive(there, place, treecopy.Options{})
		}
		_ = treecopy.Answer(there, sum, err)
	}()
	return here, nil
}

func (s fakeSession) Give(_ context.Context, c wire.Credentials) (string, error) {
	s.world.note("give %s %d variables, %d logins", s.name, len(c.Env), len(c.Logins))
	s.world.given = &c
	return "", nil
}

func (s fakeSession) Loopback(_ context.Context, port int) (io.ReadWriteCloser, error) {
	var dialer net.Dialer
	return dialer.Dial("tcp", s.world.loopback[port])
}

func (s fakeSession) Logins(context.Context) ([]supervise.Login, error) { return s.world.logins, nil }

func (s fakeSession) Status(context.Context) (supervise.Status, error) {
	status := supervise.Status{Name: s.name, Ready: true, Keeps: !s.world.old, Sessions: s.world.sessions[s.name]}
	if !s.world.old {
		status.Idle, status.Troubles = &s.world.idle, s.world.troubles
		status.Memory = &supervise.Memory{Used: 180 << 20, Returned: 1 << 30}
		status.Watch = &supervise.Watch{Folders: 17}
	}
	return status, nil
}

func (s fakeSession) Wake(_ context.Context, keep *bool) (supervise.Idle, error) {
	if keep != nil {
		s.world.note("keep %v", *keep)
	} else {
		s.world.note("wake")
	}
	return s.world.idle, s.world.wakeErr
}

// Usage is that of a sandbox that does the same every second.
func (s fakeSession) Usage(ctx context.Context, every time.Duration, take func(wire.Usage) bool) error {
	s.world.note("usage %s %v", s.name, every)
	if s.world.usage != nil {
		return s.world.usage(ctx, s.name, take)
	}
	u := wire.Usage{CPUs: 2, Memory: 2 << 30, MemoryUsed: 512 << 20, Disk: 20 << 30, DiskUsed: 1 << 30, Processes: 7}
	for take(u) {
		u.UptimeMS += every.Milliseconds()
		u.CPUMS += 3 * every.Milliseconds() / 2
		u.DiskRead += 1 << 20
		u.DiskWritten += 2 << 20
		u.NetReceived += 3 << 10
		u.NetSent += 4 << 10
	}
	return nil
}

func (fakeSession) Done() <-chan struct{} { return nil }
func (fakeSession) Close() error          { return nil }
