//go:build linux

package diskcase

import (
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/test/faultdisk"
)

// A pull into an empty cache.
func TestPull(t *testing.T) {
	b := newBench(t)
	walk{from: faultdisk.New(faultdisk.Options{}), args: pull()}.run(t, b)
}

// A pull that finds everything here must not put at risk what is here, nor
// download anything.
func TestPullAgain(t *testing.T) {
	b := newBench(t)
	d := b.pulled(t)
	before := b.sent()
	walk{from: d, args: pull(), keeps: "1.0.0"}.run(t, b)
	if got := b.sent() - before; got != 0 {
		t.Errorf("%d bytes were downloaded again", got)
	}
}

// A pull of the next release, while the one before stays as it is.
func TestUpgrade(t *testing.T) {
	b := newBench(t)
	d := b.pulled(t)
	b.upgrade(t)
	walk{from: d, args: pull(), keeps: "1.0.0"}.run(t, b)
}

// A prune takes the release before and never touches the one in use.
func TestPrune(t *testing.T) {
	b := newBench(t)
	d := b.upgraded(t)
	walk{from: d, args: []string{"prune", "--yes"}, keeps: "1.1.0"}.run(t, b)
}

// Removing one image leaves those that share its files.
func TestRemove(t *testing.T) {
	b := newBench(t)
	d := b.upgraded(t)
	walk{
		from: d, args: []string{"image", "rm", "1.0.0/claude-code-amd64-qemu"},
		again: []string{"prune", "--yes"}, keeps: "1.1.0",
	}.run(t, b)
}

// Reading everything again finds nothing wrong, whatever happens meanwhile.
func TestVerify(t *testing.T) {
	b := newBench(t)
	d := b.pulled(t)
	walk{from: d, args: []string{"image", "verify"}, keeps: "1.0.0"}.run(t, b)
}

// A load from a tar into an empty cache, without a network.
func TestLoad(t *testing.T) {
	b := newBench(t)
	tar := filepath.Join(b.other, "claude.tar")
	b.on(t, faultdisk.New(faultdisk.Options{}), func() {
		b.must(t, "save", append([]string{"image", "save", "-o", tar}, pull()[2:]...)...)
	})
	before := b.sent()
	walk{from: faultdisk.New(faultdisk.Options{}), args: []string{"image", "load", "-i", tar}}.run(t, b)
	if got := b.sent() - before; got != 0 {
		t.Errorf("%d bytes were downloaded", got)
	}
}

// A save to the disk: its file is there as a whole or not at all.
func TestSave(t *testing.T) {
	b := newBench(t)
	d := b.pulled(t)
	tar := filepath.Join(b.dir, "claude.tar")
	args := append([]string{"image", "save", "-o", tar}, pull()[2:]...)
	var whole string
	b.on(t, d, func() {
		b.must(t, "save", args...)
		whole = d.Look()["claude.tar"].Digest
		b.must(t, "pull", pull()...)
	})
	walk{from: b.pulled(t), args: args, visible: func(seen map[string]faultdisk.Sight) string {
		if s, there := seen["claude.tar"]; there && s.Digest != whole {
			return "claude.tar is not whole"
		}
		return ""
	}}.run(t, b)
}

// pulled gives a disk with the current release.
func (b *bench) pulled(t *testing.T) *faultdisk.Disk {
	t.Helper()
	d := faultdisk.New(faultdisk.Options{})
	b.on(t, d, func() { b.must(t, "before", pull()...) })
	return d.Clone()
}

// upgraded gives a disk with two releases; the first is not used any more.
func (b *bench) upgraded(t *testing.T) *faultdisk.Disk {
	t.Helper()
	d := b.pulled(t)
	b.upgrade(t)
	b.on(t, d, func() { b.must(t, "second release", pull()...) })
	return d.Clone()
}
