//go:build linux

package diskcase

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/test/faultdisk"
)

// isWhole checks that a disk has exactly the right files of a release.
func (b *bench) isWhole(t *testing.T, when string, d *faultdisk.Disk, release string) {
	t.Helper()
	seen := d.Look()
	if text := b.wrong(seen) + b.lacks(release, seen); text != "" {
		t.Errorf("%s: %s", when, text)
	}
}

// Disks that lack what good ones have still get the right image.
func TestPoorDisks(t *testing.T) {
	b := newBench(t)
	for name, test := range map[string]struct {
		options faultdisk.Options
		faults  []faultdisk.Fault
	}{
		"short writes":      {faults: []faultdisk.Fault{{Kind: faultdisk.Write, Short: 70_001}}},
		"no hard links":     {options: faultdisk.Options{NoLinks: true}},
		"no holes":          {options: faultdisk.Options{NoSparse: true}},
		"neither":           {options: faultdisk.Options{NoLinks: true, NoSparse: true}},
		"no fallocate":      {faults: []faultdisk.Fault{{Kind: faultdisk.Allocate, Err: syscall.EOPNOTSUPP}}},
		"links of one kind": {faults: []faultdisk.Fault{{Kind: faultdisk.Link, Skip: 2, Err: syscall.EMLINK}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := faultdisk.New(test.options)
			b.on(t, d, func() {
				d.Fail(test.faults...)
				b.must(t, "pull", pull()...)
				b.isWhole(t, "pulled", d, "1.0.0")
				before := b.sent()
				b.must(t, "pull again", pull()...)
				b.must(t, "verify", "image", "verify")
				b.isWhole(t, "pulled again", d, "1.0.0")
				if b.sent() != before {
					t.Error("it was downloaded again")
				}
			})
		})
	}
}

// Without room nothing is downloaded, and both numbers are named.
func TestNoRoom(t *testing.T) {
	b := newBench(t)
	d := faultdisk.New(faultdisk.Options{Capacity: 2 << 20})
	b.on(t, d, func() {
		got := b.run(t, pull()...)
		if got.status == 0 || !strings.Contains(got.stderr, "needed") || !strings.Contains(got.stderr, "free") {
			t.Errorf("status %d: %s", got.status, got.stderr)
		}
		if b.sent() != 0 {
			t.Errorf("%d bytes were downloaded", b.sent())
		}
		for name, s := range things(d) {
			if s.Size > 1<<20 {
				t.Errorf("left: %s", name)
			}
		}
	})
}

// A disk that gets full on the way, whatever it said before: what is free is
// named, nothing partial is visible, and once there is room the rest is fetched.
func TestDiskFillsUp(t *testing.T) {
	b := newBench(t)
	clean := b.pulled(t)
	whole, dice := clean.Used(), rand.New(rand.NewPCG(*seed, 1))
	for range rounds(8) {
		left := dice.Int64N(whole)
		d := faultdisk.New(faultdisk.Options{})
		b.on(t, d, func() {
			d.Fill(left)
			got := b.run(t, pull()...)
			when := fmt.Sprintf("full after %d bytes", left)
			if failedWell(t, when, got); got.status == 0 || !strings.Contains(got.stderr, "free") {
				t.Errorf("%s: status %d: %s", when, got.status, got.stderr)
			}
			if text := b.wrong(d.Look()); text != "" {
				t.Errorf("%s: %s", when, text)
			}
			d.Fill(-1)
			b.must(t, when+", then with room", pull()...)
			if text := difference(things(d), things(clean)); text != "" {
				t.Errorf("%s, then with room:\n%s", when, text)
			}
			b.isWhole(t, when, d, "1.0.0")
		})
	}
}

// No inodes left, or no more open files, at any time.
func TestNoFiles(t *testing.T) {
	b := newBench(t)
	clean, dice := b.pulled(t), rand.New(rand.NewPCG(*seed, 2))
	for range rounds(6) {
		for _, fault := range []faultdisk.Fault{
			{Kind: faultdisk.Create, Skip: dice.IntN(25), Err: syscall.ENOSPC},
			{Kind: faultdisk.Mkdir, Skip: dice.IntN(15), Err: syscall.ENOSPC},
			{Kind: faultdisk.Open, Skip: dice.IntN(40), Times: 1, Err: syscall.EMFILE},
			{Kind: faultdisk.Open, Skip: dice.IntN(40), Times: 1, Err: syscall.EACCES},
			{Kind: faultdisk.Read, Skip: dice.IntN(40), Times: 1, Err: syscall.EIO},
			{Kind: faultdisk.ReadDir, Skip: dice.IntN(10), Times: 1, Err: syscall.EIO},
			{Kind: faultdisk.StatDisk, Times: 1, Err: syscall.EIO},
		} {
			when := fmt.Sprintf("%v at the %d. %s", fault.Err, fault.Skip+1, fault.Kind)
			d := faultdisk.New(faultdisk.Options{})
			b.on(t, d, func() {
				d.Fail(fault)
				failedWell(t, when, b.run(t, pull()...))
				if text := b.wrong(d.Look()); text != "" {
					t.Errorf("%s: %s", when, text)
				}
				d.Fail()
				b.must(t, "after "+when, pull()...)
				if text := difference(things(d), things(clean)); text != "" {
					t.Errorf("after %s:\n%s", when, text)
				}
				b.isWhole(t, when, d, "1.0.0")
			})
		}
	}
}

// A cache that has everything and cannot be written to is enough.
func TestReadOnlyCache(t *testing.T) {
	b := newBench(t)
	d := b.pulled(t)
	b.on(t, d, func() {
		d.Fail(faultdisk.Fault{Err: syscall.EROFS})
		b.must(t, "read-only", pull()...)
		b.must(t, "read-only", "image", "list")
		b.isWhole(t, "read-only", d, "1.0.0")
	})
}

// A bit that turned by itself, with all times as before: verify finds it, and
// the next pull fetches that frame and no other.
func TestRot(t *testing.T) {
	b := newBench(t)
	d := b.pulled(t)
	dice := rand.New(rand.NewPCG(*seed, 3))
	packed := b.made.Manifest.Rows[0].Assets()[2].Archive.Size // nearly all of it is the first frame
	for range rounds(4) {
		offset := 4096 + dice.Int64N(300_000)
		b.on(t, d, func() {
			name := rotten(t, d, b, "base.ext4", offset)
			got := b.run(t, "image", "verify")
			if got.status == 0 || !strings.Contains(got.stderr, "base") {
				t.Fatalf("%s, byte %d: verify said %d: %s", name, offset, got.status, got.stderr)
			}
			before := b.sent()
			b.must(t, "repair", pull()...)
			if sent := b.sent() - before; sent == 0 || sent > packed {
				t.Errorf("%d bytes were downloaded for one frame of at most %d", sent, packed)
			}
			b.isWhole(t, "repaired", d, "1.0.0")
			b.must(t, "after the repair", "image", "verify")
		})
		d = d.Clone()
	}
}

func rotten(t *testing.T, d *faultdisk.Disk, b *bench, file string, offset int64) string {
	t.Helper()
	name := "home/images/1.0.0/claude-code-amd64-qemu/" + file
	if !d.Rot(name, offset) {
		t.Fatalf("%s has no byte %d", name, offset)
	}
	if b.wrong(d.Look()) == "" {
		t.Fatal("nothing is wrong after a byte was changed")
	}
	return name
}

// What was downloaded before a kill is checked again before it is used.
func TestRotInAPartialDownload(t *testing.T) {
	b := newBench(t)
	d := faultdisk.New(faultdisk.Options{})
	b.on(t, d, func() {
		r := b.command(pull()...)
		d.StopAt(partly, r.kill)
		if got := r.run(t); got.status >= 0 {
			t.Fatalf("not killed: %d %s", got.status, got.stderr)
		}
		d.Continue()
		turned := 0
		for name, s := range things(d) {
			for offset := int64(0); strings.HasPrefix(name, "home/store/partial/") && offset < s.Size; offset += 40_000 {
				if d.Rot(name, offset) {
					turned++
				}
			}
		}
		if turned == 0 {
			t.Fatal("nothing was there yet")
		}
		b.must(t, "resumed", pull()...)
		b.isWhole(t, "resumed", d, "1.0.0")
	})
}

// partly is a step of a pull into an empty cache at which frames are there.
const partly = 120
