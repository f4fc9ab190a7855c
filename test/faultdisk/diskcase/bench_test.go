//go:build linux

package diskcase

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faultdisk"
	"github.com/smolvm/smolvm/test/faulty"
)

var (
	program = flag.String("smolvm", "", "the program under test")
	sample  = flag.Int("sample", 0, "how many points of each walk are tried, chosen by the seed; 0: all")
	seed    = flag.Uint64("seed", 0, "repeat a run; 0 takes the clock")
)

// bound is the longest one command may take, on a busy host that emulates.
const bound = 2 * time.Minute

// bench is a published catalogue and a place for disks.
type bench struct {
	made   *catalogue.Catalogue
	server *faulty.Server
	url    string // of the manifest
	key    string // file with the public key
	dir    string // where disks are mounted
	other  string // a folder on an ordinary disk
	dice   *rand.Rand
	whole  map[string]string // digest of each file that people see, by release/name
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if *program == "" {
		t.Skip("needs the program: -args -smolvm FILE")
	}
	if err := faultdisk.Usable(); err != nil {
		t.Skip(err)
	}
	path, err := filepath.Abs(*program)
	must(t, err)
	*program = path
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -args -seed=%d", *seed)
	b := &bench{dir: t.TempDir(), other: t.TempDir(), dice: rand.New(rand.NewPCG(*seed, 0)), whole: map[string]string{}}
	shared, err := published()
	must(t, err)
	made := *shared
	made.Dir = t.TempDir()
	made.Address = filepath.Join(made.Dir, "manifest.json")
	b.made = &made
	must(t, os.CopyFS(b.made.Dir, os.DirFS(shared.Dir)))
	b.server = faulty.New(b.made.Dir)
	address, stop := b.server.Listen()
	t.Cleanup(stop)
	b.url = address + "/manifest.json"
	b.key = filepath.Join(b.other, "key.pub")
	must(t, os.WriteFile(b.key, []byte(b.made.PublicKey+"\n"), 0o644))
	b.known(catalogue.Disk(4))
	return b
}

// published is one catalogue for all tests; each gets a copy. Packing it is what
// takes time where a processor is emulated.
var published = sync.OnceValues(func() (*catalogue.Catalogue, error) {
	dir, err := os.MkdirTemp("", "smolvm-diskcase-")
	if err != nil {
		return nil, err
	}
	return catalogue.Make(context.Background(), dir, time.Now())
})

// TestMain removes what all tests shared.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if *program != "" && faultdisk.Usable() == nil {
		if made, err := published(); err == nil {
			_ = os.RemoveAll(made.Dir)
		}
	}
	os.Exit(code)
}

// rounds is how often a test tries moments that it chooses by dice.
func rounds(all int) int {
	if *sample == 0 {
		return all
	}
	return max(1, min(all, *sample/4))
}

// known notes the right bytes of the release that is published now: of the files
// that people see, and of their sidecars.
func (b *bench) known(agent []byte) {
	row := b.made.Manifest.Rows[0]
	for file, asset := range map[string]struct {
		manifest.Asset
		data []byte
	}{
		"kernel":           {row.Kernel.Image, catalogue.Noise(1, 200_000)},
		"modules.cpio":     {*row.Kernel.Modules, catalogue.Noise(2, 5_000)},
		"base.ext4":        {row.Layers[0], catalogue.Disk(3)},
		"claude-code.ext4": {row.Layers[1], agent},
	} {
		name := b.made.Manifest.Release + "/" + file
		b.whole[name] = faultdisk.Digest(asset.data)
		b.whole[name+".from-sha256"] = faultdisk.Digest([]byte(asset.Archive.SHA256 + "\n"))
	}
}

// upgrade publishes the next release: one frame of one layer is new.
func (b *bench) upgrade(t *testing.T) {
	t.Helper()
	agent := catalogue.Disk(4)
	copy(agent[unpack.FrameSize+8192:], catalogue.Noise(99, 50_000))
	layer, err := b.made.Add(t.Context(), "claude-code", agent)
	must(t, err)
	m := &b.made.Manifest
	m.Rows = slices.Clone(m.Rows)
	for i := range m.Rows {
		m.Rows[i].Layers = []manifest.Asset{m.Rows[i].Layers[0], layer}
	}
	m.Release, m.Serial = "1.1.0", m.Serial+1
	must(t, b.made.Publish())
	b.known(agent)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// on mounts a disk for the time of a function.
func (b *bench) on(t *testing.T, d *faultdisk.Disk, do func()) {
	t.Helper()
	must(t, d.Mount(b.dir))
	defer func() { must(t, d.Unmount()) }()
	do()
}

// outcome is how a command ended.
type outcome struct {
	status int // -1: killed
	stderr string
}

// running is a command; its process can be killed from the disk's side.
type running struct {
	cmd     *exec.Cmd
	started chan struct{}
}

func (r *running) kill() {
	<-r.started
	_ = r.cmd.Process.Kill()
}

// command prepares one; its home is on the disk, its working folder is not.
func (b *bench) command(args ...string) *running {
	cmd := exec.Command(*program, append([]string{"--manifest", b.url, "--trusted-key", b.key}, args...)...)
	cmd.Dir = b.other
	cmd.Env = []string{"HOME=" + b.other, "SMOLVM_HOME=" + b.home(), "LANG=C.UTF-8", "TMPDIR=" + b.other}
	return &running{cmd: cmd, started: make(chan struct{})}
}

func (b *bench) home() string { return filepath.Join(b.dir, "home") }

func (r *running) run(t *testing.T) outcome {
	t.Helper()
	var text bytes.Buffer
	r.cmd.Stdout, r.cmd.Stderr = &text, &text
	must(t, r.cmd.Start())
	close(r.started)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = r.cmd.Process.Kill() })
	err := r.cmd.Wait()
	if !stop() {
		t.Fatalf("%v did not end within %v: %s", r.cmd.Args[5:], bound, text.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{r.cmd.ProcessState.ExitCode(), text.String()}
}

// run runs a command to its end.
func (b *bench) run(t *testing.T, args ...string) outcome {
	t.Helper()
	return b.command(args...).run(t)
}

// must runs a command that has to succeed.
func (b *bench) must(t *testing.T, when string, args ...string) {
	t.Helper()
	if got := b.run(t, args...); got.status != 0 {
		t.Fatalf("%s: %v ended with %d: %s", when, args, got.status, got.stderr)
	}
}

// lacks says which files of a release are not shown.
func (b *bench) lacks(release string, seen map[string]faultdisk.Sight) string {
	left := maps.Clone(b.whole)
	for name := range seen {
		delete(left, shown(name))
	}
	text := ""
	for _, name := range slices.Sorted(maps.Keys(left)) {
		if strings.HasPrefix(name, release+"/") {
			text += "\nmissing: " + name
		}
	}
	return text
}

// pull is the command that most walks are about.
func pull() []string {
	return []string{"image", "pull", "claude", "--arch", "amd64", "--backend", "qemu"}
}

// things are the files on a disk that hold something: no locks, no serials. The
// memory of trust removes its own orphans when they are an hour old.
func things(d *faultdisk.Disk) map[string]faultdisk.Sight {
	all := d.Look()
	maps.DeleteFunc(all, func(name string, s faultdisk.Sight) bool {
		return s.Mode.IsDir() || s.Size == 0 || strings.HasPrefix(name, "home/trust/") && path.Base(name)[0] == '.'
	})
	return all
}

// difference says what is on one disk and not on the other, and what takes more
// space than it may.
func difference(got, want map[string]faultdisk.Sight) string {
	var text []string
	for _, name := range slices.Sorted(maps.Keys(got)) {
		before, there := want[name]
		switch now := got[name]; {
		case !there:
			text = append(text, "too much: "+name)
		case now.Mode != before.Mode:
			text = append(text, name+": mode "+now.Mode.String()+", want "+before.Mode.String())
		case path.Base(name) == "content" && now.Allocated > before.Allocated+before.Allocated/50:
			text = append(text, name+" takes more space than it has to")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, there := got[name]; !there {
			text = append(text, "missing: "+name)
		}
	}
	return strings.Join(text, "\n")
}

// wrong says which files that people or sandboxes could use hold wrong bytes.
func (b *bench) wrong(seen map[string]faultdisk.Sight) string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		if want, ok := b.whole[shown(name)]; ok && seen[name].Digest != want {
			text += "\n" + name + " holds wrong bytes"
		}
	}
	return text
}

// shown makes release/file of home/images/RELEASE/IMAGE/FILE.
func shown(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) != 5 || parts[1] != "images" {
		return ""
	}
	return parts[2] + "/" + parts[4]
}

// sent is how many bytes of archives went over the wire.
func (b *bench) sent() int64 {
	var all int64
	for _, asset := range b.made.Manifest.Rows[0].Assets() {
		all += b.server.Sent(asset.Archive.File)
	}
	return all
}

// failedWell checks that a command that could not do its work said so.
func failedWell(t *testing.T, point string, got outcome) {
	t.Helper()
	switch {
	case got.status == 0:
	case got.status < 0:
		t.Errorf("%s: it died", point)
	case strings.Contains(got.stderr, "goroutine ") || strings.TrimSpace(got.stderr) == "":
		t.Errorf("%s: status %d, said: %s", point, got.status, got.stderr)
	}
}
