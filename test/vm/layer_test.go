//go:build vm

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fsimg/ext4"
)

// mostSlack is how much of a layer's blocks may be without a file.
const mostSlack = 0.05

// twoNames are the layers that are known to have a file under two names: Debian's
// perl, and the one program of Claude Code.
var twoNames = map[string]bool{"base.ext4": true, "claude-code.ext4": true}

// TestPublishedLayersAreMinimal looks at every layer that is published, for every
// architecture, as it is after a pull: it is whole, has no journal, hardly a block
// or an inode too many, and what was one file is one file.
func TestPublishedLayersAreMinimal(t *testing.T) {
	w := theWorld.fresh(t, filepath.Join(*images, "manifest.json"))
	pulled := map[string]bool{}
	for _, row := range published(t).Rows {
		if image := row.Preset + "-" + row.Arch; !pulled[image] {
			pulled[image] = true
			w.must(t, "image", "pull", row.Preset, "--arch", row.Arch)
		}
	}
	paths, err := filepath.Glob(filepath.Join(w.home, "images", "*", "*", "*.ext4"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no layers: %v", err)
	}
	var seen []os.FileInfo // images share layers by links
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
			continue
		}
		seen = append(seen, info)
		image := filepath.Base(filepath.Dir(path))
		t.Run(image+"/"+filepath.Base(path), func(t *testing.T) { minimal(t, path) })
	}
}

func minimal(t *testing.T, path string) {
	if out, err := exec.Command(administrators("e2fsck"), "-f", "-n", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	about, err := exec.Command(administrators("dumpe2fs"), "-h", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	if text := string(about); strings.Contains(text, "has_journal") || strings.Contains(text, "Journal") {
		t.Errorf("it has a journal:\n%s", text)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	system, err := ext4.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	use := system.Usage()
	t.Logf("%d bytes, %.2f %% free; %d inodes, %d free", use.Size, 100*float64(use.Free)/float64(use.Size), use.Inodes, use.FreeInodes)
	const group, rounding = 128 << 20, 16 // ext4 rounds up the inodes of each block group
	room := mostSlack*float64(use.Inodes) + rounding*float64(use.Size/group+1)
	if float64(use.Free) > mostSlack*float64(use.Size) || float64(use.FreeInodes) > room {
		t.Errorf("too much room: %+v", use)
	}
	oneFile(t, system, twoNames[filepath.Base(path)])
}

// oneFile holds that files have all the names that they count.
func oneFile(t *testing.T, system *ext4.FS, some bool) {
	t.Helper()
	counted, found := map[uint32]int{}, map[uint32][]string{}
	err := system.Walk(func(e ext4.Entry) error {
		if e.Mode.IsRegular() && e.Links > 1 {
			counted[e.Inode] = e.Links
			found[e.Inode] = append(found[e.Inode], e.Name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for inode, links := range counted {
		if len(found[inode]) != links {
			t.Errorf("%v have %d names", found[inode], links)
		}
	}
	if some && len(counted) == 0 {
		t.Error("no file has two names: they were copied")
	}
	t.Logf("%d files have more than one name", len(counted))
}

// administrators finds a program that Debian keeps where only root looks for it.
func administrators(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return filepath.Join("/usr/sbin", name)
}
