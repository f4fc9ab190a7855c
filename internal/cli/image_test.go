package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/wire"
)

// What is wrong is told with its frames and the command that repairs it, in JSON
// as data of a failure.
func TestVerifyFindsWrongFrames(t *testing.T) {
	w := newWorld(t)
	w.bad = []int{3, 7}
	w.run(t, "image verify claude", want{
		status: 8, log: []string{"verify 1"},
		out: "FILE       SIZE      FRAMES  RESULT\n" +
			"kernel     40.0 MiB  5       right\n" +
			"base.ext4  1.0 GiB   128     2 of 128 frames are wrong: 3, 7\n",
		errs: "smolvm: verify 2026.1/claude-code-amd64-qemu: 1 of 2 files are not what was verified: base.ext4 in /objects/cd\n" +
			"  hint: Nothing of it boots. Repair it: smolvm image pull --arch amd64 claude-code\n",
	})
	w = newWorld(t)
	w.bad = make([]int, 20)
	if status := w.app.Main([]string{"image", "verify", "--json"}); status != 8 {
		t.Errorf("exit status %d", status)
	}
	for _, part := range []string{`"ok": false`, `"code": "trust"`, `"bad_frames": [`, `"right": false`} {
		if !strings.Contains(w.out.String(), part) {
			t.Errorf("no %s in %s", part, &w.out)
		}
	}
	if got := framesText(w.bad); !strings.HasSuffix(got, " and 8 more") {
		t.Errorf("many frames are named as %q", got)
	}
}

// What the catalogue does not know any more the cache still does; without a
// catalogue it alone answers, and only a word that it does not know fails.
func TestInspectFromTheCache(t *testing.T) {
	w := newWorld(t)
	w.catalogue = fault.New(fault.Network, "", "no answer")
	w.run(t, "image inspect claude", want{
		log: []string{"catalogue"}, errs: "warning: the cache alone answers, because of the catalogue: no answer",
		out: "2026.1/claude-code-amd64-qemu\n  size      3.0 GiB\n  folder    /images\n",
	})
	w = newWorld(t)
	w.catalogue = fault.New(fault.Network, "", "no answer")
	w.run(t, "image inspect codex", want{status: 7, log: []string{"catalogue"}, errs: "smolvm: no answer"})
	w = newWorld(t)
	w.cache = store.Absent
	w.app.Main([]string{"image", "inspect", "claude-code-amd64-qemu"})
	for _, part := range []string{"missing here: 40.0 MiB", "not here, 10.0 MiB to download"} {
		if !strings.Contains(w.out.String(), part) {
			t.Errorf("no %q in %s", part, &w.out)
		}
	}
}

// A terminal is asked before anything goes, after it was shown what; no is no.
func TestPruneAsks(t *testing.T) {
	dry := "prune all=false dry=true keep=-1 current=[2026.1]"
	for answer, log := range map[string][]string{
		"n\n": {dry}, "": {dry}, "y\n": {dry, strings.Replace(dry, "dry=true", "dry=false", 1)},
	} {
		w := newWorld(t)
		w.app.Streams.In, w.app.Streams.InTTY, w.app.Streams.OutTTY = strings.NewReader(answer), true, true
		if status := w.app.Main([]string{"prune"}); status != 0 || !slices.Equal(w.log, log) {
			t.Errorf("%q: status %d, did %v", answer, status, w.log)
		}
		if !strings.Contains(w.errs.String(), "Remove 1 image, 1 file and 1 unfinished download and free 3.0 GiB? [y/N]") {
			t.Errorf("asked %s", &w.errs)
		}
	}
	w := newWorld(t)
	w.app.Streams.InTTY, w.app.Streams.OutTTY, w.pruned = true, true, store.Pruned{}
	w.run(t, "prune", want{
		log: []string{dry, strings.Replace(dry, "dry=true", "dry=false", 1)}, out: "freed 0 B\n", errs: "There is nothing to remove.\n",
	})
}

// A terminal gets no tar and gives none.
func TestTarsAndTerminals(t *testing.T) {
	w := newWorld(t)
	w.app.Streams.OutTTY = true
	w.run(t, "image save claude", want{status: 2, errs: "a terminal is no place for a tar\n  hint: Give --output FILE"})
	w = newWorld(t)
	w.app.Streams.InTTY = true
	w.run(t, "image load", want{status: 2, errs: "a terminal has no tar to load\n  hint: Give --input FILE"})
}

// Who interrupts a download is told that it was not for nothing; who interrupts
// what comes after it is not.
func TestInterruptedPull(t *testing.T) {
	w := newWorld(t)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.app.Pull = func(ctx context.Context, _ resolve.Catalogue, _ manifest.Row, _ bool) (record.Image, lease, error) {
		signals <- syscall.SIGINT
		<-ctx.Done()
		return record.Image{}, nil, ctx.Err()
	}
	w.run(t, "image pull claude", want{
		status: 130, log: []string{"catalogue"},
		errs: "smolvm: interrupted\n  hint: What was downloaded and verified is kept: the next pull or start goes on from there.\n",
	})
}

// The leases of all images are given up, also when a later one fails.
func TestLeasesAreGivenUp(t *testing.T) {
	w := newWorld(t)
	w.rows = append(w.rows, fakeRow("codex"))
	pull := w.app.Pull
	w.app.Pull = func(ctx context.Context, c resolve.Catalogue, row manifest.Row, keep bool) (record.Image, lease, error) {
		if row.Preset == "codex" {
			return record.Image{}, nil, errors.New("broken")
		}
		return pull(ctx, c, row, keep)
	}
	w.run(t, "image pull --all", want{status: 1, log: []string{"catalogue", "pull claude-code", "give up"}, errs: "broken"})
}

// Every sandbox holds what it stands on, a broken one all that it may stand on.
func TestHolders(t *testing.T) {
	w := newWorld(t)
	c, _ := w.app.Config()
	book, err := record.Open(c.Home)
	if err != nil {
		t.Fatal(err)
	}
	key := func(digit string) string { return strings.Repeat(digit, 64) }
	path := func(digit string) string { return filepath.Join(c.Home, "store", "objects", key(digit), "content") }
	for _, name := range []string{"good", "newer", "making", "planted", "empty", "torn", "folder", "lost"} {
		lock, err := book.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Release()
	}
	err = book.Write(record.Record{
		Name: "good", Mode: wire.ModeRun, State: record.Created, Created: time.Now(),
		Image: record.Image{Kernel: path("a"), Modules: path("b"), Layers: []record.Layer{{Name: "base", Path: path("c")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	newer := `{"version": 99, "disks": ["store/objects/` + key("d") + `/content"], "short": "` + key("e")[1:] + `"}`
	if err := os.WriteFile(book.Folder("newer").Record(), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", book.Folder("planted").Record()); err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(book.Folder("empty").Record(), nil, 0o600),
		os.WriteFile(book.Folder("torn").Record(), []byte(newer[:len(newer)-1]), 0o600),
		os.Mkdir(book.Folder("folder").Record(), 0o700),
		os.WriteFile(book.Folder("lost").Scratch(), []byte("disk"), 0o600),
		os.MkdirAll(filepath.Join(c.Home, "store", "objects", key("f")), 0o755),
		os.MkdirAll(filepath.Join(c.Home, "store", "partial", key("0")), 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := record.OpenSnapshots(c.Home)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"whole", "spoiled"} {
		lock, err := kept.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Release()
	}
	err = errors.Join(kept.Write(record.Record{
		Name: "whole", Mode: wire.ModeRun, State: record.Created, Created: time.Now(), Snapshot: &record.Snapshot{Of: "gone"},
		Image: record.Image{Kernel: path("1"), Layers: []record.Layer{{Name: "base", Path: path("2")}}},
	}), os.WriteFile(kept.Folder("spoiled").Record(), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	holders, err := w.app.holders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, h := range holders {
		got[h.Name] = h.Keys
	}
	if !slices.Equal(got["sandbox good"], []string{key("a"), key("b"), key("c")}) ||
		!slices.Equal(got["sandbox newer"], []string{key("d")}) || len(got["sandbox making"]) != 0 {
		t.Errorf("held: %v", got)
	}
	if by := "snapshot spoiled, whose record cannot be read (smolvm snapshot rm spoiled)"; !slices.Equal(got["snapshot whole"], []string{key("1"), key("2")}) ||
		!slices.Equal(got[by], []string{key("f"), key("0")}) {
		t.Errorf("snapshots hold: %v", got)
	}
	for _, name := range []string{"planted", "empty", "torn", "folder", "lost"} {
		by := "sandbox " + name + ", whose record cannot be read (smolvm delete " + name + ")"
		if !slices.Equal(got[by], []string{key("f"), key("0")}) {
			t.Errorf("%s does not hold everything: %v", name, got)
		}
	}
}

// Keys are added, listed and removed by file, text and id, for the catalogue that
// is meant.
func TestTrust(t *testing.T) {
	const key, id = "RWQAAAAAAAAAAJbsxoMjWXxM7hN2H1vMVYGBcjf/vhuSrhvsjaH8L44G", "0000000000000000"
	w := newWorld(t)
	home := t.TempDir()
	w.app.Config = func() (config.Config, error) {
		return config.Load([]string{"SMOLVM_HOME=" + home, "SMOLVM_MANIFEST=/srv/manifest.json"}, home)
	}
	file := filepath.Join(t.TempDir(), "k.pub")
	if err := os.WriteFile(file, []byte("untrusted comment: x\n"+key+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		line string
		want want
	}{
		{"config trust list --json", want{out: envelopeOf(`[]`)}},
		{"config trust add " + file, want{errs: "Key " + id + " is trusted for /srv/manifest.json."}},
		{"config trust add " + key, want{errs: "Key " + id + " was trusted already for /srv/manifest.json."}},
		{"config trust list", want{out: "KEY ID            FROM    CATALOGUE\n" + id + "  config  /srv/manifest.json\n"}},
		{"config trust remove " + id + " --catalogue https://e.org/", want{status: 2, errs: "neither a public key nor a file"}},
		{"config trust remove " + key + " --catalogue https://e.org/", want{status: 3, errs: "is not configured for https://e.org/"}},
		{"config trust remove " + id + " --json", want{out: envelopeOf(`{"manifest":"/srv/manifest.json","id":"` + id + `","key":"` + key + `","changed":true}`)}},
		{"config trust list", want{errs: "No key is trusted. Add one: smolvm config trust add KEY"}},
	} {
		w.out.Reset()
		w.errs.Reset()
		w.run(t, step.line, step.want)
	}
}
