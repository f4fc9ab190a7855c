//go:build linux

package boot

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeSys makes a sysfs and a devtmpfs with disks, given as name and serial.
func fakeSys(t *testing.T, disks ...[2]string) (sys, dev string) {
	t.Helper()
	sys, dev = t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(sys, "block"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		dir := filepath.Join(sys, "block", d[0])
		if err := errors.Join(
			os.Mkdir(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "serial"), []byte(d[1]+"\n"), 0o600),
			os.WriteFile(filepath.Join(dev, d[0]), nil, 0o600),
		); err != nil {
			t.Fatal(err)
		}
	}
	return sys, dev
}

func TestFindDrives(t *testing.T) {
	for name, test := range map[string]struct {
		disks [][2]string
		roles []string
		want  map[string]string
	}{
		"by serial, in any order": {
			[][2]string{{"vda", "seed"}, {"vdb", "layer0"}, {"vdc", "scratch"}, {"sr0", "scratch"}},
			[]string{"layer0", "scratch", "seed"},
			map[string]string{"layer0": "vdb", "scratch": "vdc", "seed": "vda"},
		},
		"by place without serials, vdb before vdaa": {
			[][2]string{{"vdaa", ""}, {"vdb", ""}, {"vda", "other-id"}},
			[]string{"layer0", "scratch", "seed"},
			map[string]string{"layer0": "vda", "scratch": "vdb", "seed": "vdaa"},
		},
		"none asked for": {nil, nil, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			sys, dev := fakeSys(t, test.disks...)
			got, err := FindDrives(t.Context(), sys, dev, test.roles)
			if err != nil {
				t.Fatal(err)
			}
			want := Drives{}
			for role, disk := range test.want {
				want[role] = filepath.Join(dev, disk)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFindDrivesGivesUp(t *testing.T) {
	sys, dev := fakeSys(t, [2]string{"vda", "layer0"})
	reason := errors.New("it did not appear")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, reason)
	defer cancel()
	got, err := FindDrives(ctx, sys, dev, []string{"layer0", "scratch"})
	if !errors.Is(err, reason) {
		t.Errorf("got %v, %v; want %v", got, err, reason)
	}
}

// A socket fails to open with ENXIO, as a disk does that is only half there.
func TestHalfMadeDiskIsWaitedFor(t *testing.T) {
	sys, dev := fakeSys(t, [2]string{"vda", "seed"})
	node := filepath.Join(dev, "vda")
	if err := os.Remove(node); err != nil {
		t.Fatal(err)
	}
	if ready, err := openable(node); ready || err != nil {
		t.Errorf("without a node: %v, %v", ready, err)
	}
	socket, err := net.Listen("unix", node)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	reason := errors.New("it stayed half made")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, reason)
	defer cancel()
	if got, err := FindDrives(ctx, sys, dev, []string{"seed"}); !errors.Is(err, reason) {
		t.Errorf("half made: got %v, %v; want %v", got, err, reason)
	}
}

func TestAwaitStopsAtAnError(t *testing.T) {
	reason := errors.New("no")
	if err := Await(t.Context(), func() (bool, error) { return false, reason }); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}

func TestClassify(t *testing.T) {
	head := make([]byte, 64<<10)
	if got := classify(head); got != blank {
		t.Errorf("zeros: got %d", got)
	}
	head[60<<10] = 1
	if got := classify(head); got != foreign {
		t.Errorf("something: got %d", got)
	}
	head[1024+56], head[1024+57] = 0x53, 0xef
	if got := classify(head); got != ext4 {
		t.Errorf("ext4: got %d", got)
	}
}

func TestInspectRefusesAShortDrive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "drive")
	if err := os.WriteFile(file, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := inspect(file); err == nil {
		t.Error("accepted")
	}
}

func TestCommitNamesHomesOnlyOnce(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"home.part", "workspace.part"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	base, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(base, []string{"/scratch/home", "/scratch/workspace"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != "home" || entries[1].Name() != "workspace" {
		t.Errorf("got %v, %v", entries, err)
	}
}

func TestSeedHomeDiscardsHalfOfOne(t *testing.T) {
	root, scratch := t.TempDir(), t.TempDir()
	source, dir := filepath.Join(root, "home/agent"), filepath.Join(scratch, "home.part")
	if err := errors.Join(
		os.MkdirAll(source, 0o755), os.WriteFile(filepath.Join(source, ".profile"), []byte("x"), 0o644),
		os.MkdirAll(filepath.Join(dir, "stale"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	h := home{"home", "/home/agent", os.Getuid(), 0o755}
	if err := h.seed(root, dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != ".profile" {
		t.Errorf("got %v, %v", entries, err)
	}
	if err := h.seed(filepath.Join(root, "without"), dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("of nothing: got %v, %v", entries, err)
	}
}

// TestHomesOfEarlierAgentsAreKept: what they could not name is people's, unless nothing
// has a name, when it may be half.
func TestHomesOfEarlierAgentsAreKept(t *testing.T) {
	for name, c := range map[string]struct{ there, want []string }{
		"one has a name": {[]string{"home", "workspace.new", "docker.new"}, []string{"docker", "home", "workspace"}},
		"none has":       {[]string{"home.new", "workspace.new"}, nil},
		"both are there": {[]string{"home", "home.new"}, []string{"home", "home.new"}},
		"a new one":      {[]string{"home", "docker.part"}, []string{"docker.part", "home"}},
	} {
		scratch := t.TempDir()
		for _, dir := range c.there {
			if err := os.MkdirAll(filepath.Join(scratch, dir, "of "+dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := adoptHomes(scratch); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		entries, err := os.ReadDir(scratch)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestReserve(t *testing.T) {
	scratch := t.TempDir()
	dir, err := os.Open(scratch)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r := Root{scratch: dir}
	for range 2 { // it is there at the second boot
		if err := r.KeepReserve(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(scratch, reserveName))
	if err != nil || info.Size() != reserveSize {
		t.Errorf("%v, %v", info, err)
	}
	if err := freeReserve(scratch); err != nil { // there is room: it stays
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(scratch, reserveName)); err != nil {
		t.Error(err)
	}
	if err := writable(scratch); err != nil {
		t.Error(err)
	}
}
