package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// Needs of a computer that uses SmolVM daily.
const (
	roomy     = 4 << 30 // bytes: an image of each preset, expanded, and a few sandboxes
	openFiles = 1024    // a supervisor has some 30 files open and one per connection
	someDays  = 7 * 24 * time.Hour
)

func folder(f Facts) Check {
	c := Check{Name: "state folder", State: OK, Found: f.Home.Path}
	if !f.Home.Exists {
		c.Found += " is not there yet"
		c.Means, c.Repair = "the first start makes it", MakeHome
	}
	switch lost := losses(f.Home); {
	case f.Home.Err != nil:
		return failed("state folder", Unusable, f.Home.Err, "images and sandboxes cannot be kept")
	case f.Home.Mode&0o022 != 0:
		c.Found += fmt.Sprintf(" has mode %04o", f.Home.Mode)
		c.State, c.Means = Degraded, "others can write to it: SmolVM closes it when it is next used"
		c.Fix, c.Repair = "Close it: chmod go-w "+f.Home.Path, CloseHome
	case len(lost) > 0:
		c.State, c.Means = Degraded, "its file system lacks "+strings.Join(lost, "; ")
		c.Fix = "Put it on ext4, XFS, Btrfs or APFS with SMOLVM_HOME."
	}
	return c
}

// losses are what the file system cannot do, with what that costs.
func losses(h Home) []string {
	var lost []string
	for _, feature := range []struct {
		there bool
		text  string
	}{
		{h.Folder.Holes, "holes (disks take their full size)"},
		{h.Folder.HardLinks, "hard links (each version is stored again)"},
		{h.Folder.Locks, "locks (two commands may disturb each other)"},
	} {
		if !feature.there {
			lost = append(lost, feature.text)
		}
	}
	return lost
}

func space(f Facts) Check {
	c := Check{Name: "space", State: OK}
	if f.Home.Err != nil {
		c.State, c.Found, c.Means = Untested, "not looked at", "the state folder cannot be used"
		return c
	}
	free := f.Home.Folder.FreeBytes
	c.Found = size(free) + " free"
	switch {
	case f.Catalogue.Expands > free:
		c.State, c.Means = Unusable, fmt.Sprintf("the image of Claude Code needs %s", size(f.Catalogue.Expands))
	case free < roomy:
		c.State, c.Means = Degraded, "that is little for images and the disks of sandboxes"
	}
	if c.State != OK {
		c.Fix = "Free some: smolvm prune shows what SmolVM can give back, or name another place with SMOLVM_HOME."
	}
	return c
}

func catalogue(f Facts) Check {
	have := f.Catalogue
	c := Check{Name: "images", State: OK, Found: fmt.Sprintf("release %s of %s, signed by %s", have.Release, have.Address, strings.Join(have.Signers, ", "))}
	switch {
	case have.Address == "" && f.OwnBuilds:
		c.State, c.Found, c.Means = Degraded, "no catalogue of images is named", "the base is built here, too: the first start takes many minutes"
	case have.Address == "":
		c.State, c.Found, c.Means = Unusable, "no catalogue of images is named", "there is nothing to start from"
		c.Fix = "Name one with --manifest or SMOLVM_MANIFEST."
	case have.Err != nil:
		c = failed("images", Unusable, have.Err, "nothing new can be downloaded")
		if fault.CodeOf(have.Err) == fault.Network {
			c.State = Degraded
		}
	case have.Expired:
		c.State, c.Means = Degraded, "it has expired: what is here still starts, nothing new is downloaded"
		c.Fix = "Ask its publisher for a newer one, or set this computer's clock."
	case !have.Image:
		c.State, c.Means = Degraded, "it has no image of Claude Code for this computer: the first start builds one, which takes minutes"
	case f.OwnBuilds:
		c.Means = "SMOLVM_USE_PUBLISHED asks for images that are built here"
	case have.Expires.Sub(f.Now) < someDays:
		c.Means = "it expires on " + have.Expires.UTC().Format(time.DateOnly)
	}
	return c
}

// size is bytes for people.
func size(n int64) string {
	if n < 10<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d GiB", n>>30)
}
