package cli

import (
	"context"
	"io"
	"time"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/doctor"
	"github.com/smolvm/smolvm/internal/egress"
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
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// sandboxes is what the commands ask of the sandbox room.
type sandboxes interface {
	Names() ([]string, error)
	Turn(ctx context.Context, key string, waiting func()) (done func() error, err error)
	Create(ctx context.Context, spec sandbox.Spec) (record.Record, error)
	Start(ctx context.Context, name string, options sandbox.StartOptions) (record.Record, error)
	Stop(ctx context.Context, name string, grace time.Duration) error
	Delete(ctx context.Context, name string) error
	Grow(ctx context.Context, name string, size int64) (record.Record, error)
	Resize(name string, size sandbox.Size) (record.Record, error)
	Rehost(name string, host sandbox.Host) (record.Record, error)
	Update(name string, image record.Image, agent record.Agent) (record.Record, error)
	Changes(name string) (sandbox.Changes, error)
	Rename(ctx context.Context, from, to string) error
	Fork(ctx context.Context, from string, f sandbox.Fork) ([]record.Record, error)
	Remount(ctx context.Context, name string, change supervise.MountChange) (record.Record, error)
	Network(ctx context.Context, name string, change egress.Change) (netstack.Snapshot, error)
	List() ([]sandbox.Status, error)
	Get(name string) (sandbox.Status, error)
	Connect(ctx context.Context, name string) (session, error)
	Ports(ctx context.Context, name string, listening bool) (supervise.PortReport, error)
	Forward(ctx context.Context, name string, f port.Forward) (port.Forward, error)
	Environment(name string) ([]string, error)
	SetEnvironment(ctx context.Context, name string, entries, names []string, values map[string]string) ([]string, error)
	Unforward(ctx context.Context, name string, f port.Forward) error
	snapshots
}

// session is a connection to the supervisor of a running sandbox.
type session interface {
	Exec(ctx context.Context, command supervise.Command, streams supervise.Streams) (status int, err error)
	SSH(ctx context.Context, stream io.ReadWriter) error
	Status(ctx context.Context) (supervise.Status, error)
	Copy(ctx context.Context, request wire.Copy) (io.ReadWriteCloser, error)
	Give(ctx context.Context, given wire.Credentials) (note string, err error)
	Loopback(ctx context.Context, port int) (io.ReadWriteCloser, error)
	Logins(ctx context.Context) ([]supervise.Login, error)
	Wake(ctx context.Context, keep *bool) (supervise.Idle, error)
	Usage(ctx context.Context, every time.Duration, take func(wire.Usage) bool) error
	Done() <-chan struct{}
	Close() error
}

// lease is the right that an image stays in the cache.
type lease interface{ Release() error }

// rooms are the rooms below, each opened on first use. Tests put others here.
type rooms struct {
	Config     func() (config.Config, error)
	AllPresets func() ([]preset.Preset, error)
	Sandboxes  func() (sandboxes, error)
	Catalogue  func(ctx context.Context) (resolve.Catalogue, error)
	// Pull brings an image into the cache, where it stays until the lease is given up.
	Pull func(ctx context.Context, found resolve.Catalogue, row manifest.Row, keepArchive bool) (record.Image, lease, error)
	// BuildHere makes an image on this computer and brings it into the cache.
	BuildHere func(ctx context.Context, b localBuild) (manifest.Row, record.Image, lease, error)
	// Built tells whether the layer of b is in the build cache, on the base of row.
	Built func(b localBuild, row manifest.Row) bool
	// Intact refuses an image whose files are not the verified ones any more.
	Intact func(ctx context.Context, image record.Image) error
	Cached func() ([]store.Image, error)
	Verify func(ctx context.Context, images []store.Image) ([]acquire.Report, error)
	// Lookup is what is in the cache of one asset, named by the digest of its index.
	Lookup func(ctx context.Context, key string) (store.Object, error)
	// Save writes images that are in the cache to a file, or to out where path is empty.
	Save   func(ctx context.Context, found resolve.Catalogue, images []release.Image, path string, out io.Writer) (release.Saved, error)
	Load   func(ctx context.Context, in io.Reader) (release.Loaded, error)
	Mirror func(ctx context.Context, found resolve.Catalogue, dest string) (release.Mirrored, error)
	Prune  func(ctx context.Context, o store.PruneOptions) (store.Pruned, error)
	Remove func(ctx context.Context, images []store.Image, dryRun bool) (store.Pruned, error)
	// Current are the releases that the known catalogues have now, and the keys of
	// the assets that they name.
	Current func() (releases, keys []string, err error)
	// SeenLast are the manifests that were seen last; the network is not asked.
	SeenLast func() catalogues
	// AskNewer asks the catalogue of an image for a newer manifest, once a day, and
	// says nothing of it. The returned function ends that.
	AskNewer func(ctx context.Context, image record.Image) (stop func())
	// OnDisk is what a sandbox's folder takes on this computer in bytes, without images.
	OnDisk func(name string) int64
	// Machine decides what a new sandbox of an architecture (empty: this computer's)
	// runs on, and refuses a backend that there is not.
	Machine func(arch, backend string) (machine, error)
	// Able refuses a host on which the machine cannot run, or where no sandbox can be written.
	Able func(m machine) error
	// Sound asks the VMM whether it can run the machine, which takes a tenth of a second.
	Sound func(ctx context.Context, m machine) error
	// Accel is how the host runs a guest with that kernel, and why not faster.
	Accel func(ctx context.Context, m machine, row manifest.Row, image record.Image) (accel vmm.Accel, reason string, err error)
	// Program is what is recorded of the VMM's program; nil: nothing.
	Program func(ctx context.Context, m machine) (*record.Program, error)
	Host    func() host.Info
	// KVM finds out whether KVM runs guests; without a guest of its own in the options,
	// as far as that can be known.
	KVM func(ctx context.Context, o host.KVMOptions) (host.Verdict, error)
	// PortFree refuses a forward that could not listen now.
	PortFree func(ctx context.Context, f port.Forward) error
	// Facts are what the doctor judges.
	Facts func(ctx context.Context) (doctor.Facts, error)
}

// folder is where a sandbox is kept.
func (a *App) folder(name string) (record.Folder, error) {
	config, err := a.Config()
	if err != nil {
		return record.Folder{}, err
	}
	book, err := record.Open(config.Home)
	if err != nil {
		return record.Folder{}, err
	}
	return book.Folder(name), nil
}
