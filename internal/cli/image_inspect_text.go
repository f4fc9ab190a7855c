package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/ui"
)

// text is the inspection for people.
func (i inspection) text(out *sheet, now time.Time) string {
	if c := i.Catalogue; c != nil {
		out.facts("", [][2]string{
			{"catalogue", c.Address},
			{"places", strings.Join(otherThan(c.Address, c.Places), ", ")},
			{"release", fmt.Sprintf("%s, serial %d", c.Release, c.Serial)},
			{"signed by", listed(c.Signers) + keyListText(c.KeyList)},
			{"created", fmt.Sprintf("%s, %s ago", c.Created.UTC().Format(time.DateTime), ui.Age(now, c.Created))},
			{"expires", expiryText(now, c)},
			{"needs", strings.TrimSuffix("smolvm "+c.MinVersion, "smolvm ")},
		}...)
	}
	for _, image := range i.Images {
		out.WriteString("\n" + ui.Clean(image.Name) + "\n")
		image.write(out)
	}
	return strings.TrimPrefix(out.String(), "\n")
}

func (v imageView) write(out *sheet) {
	lines := [][2]string{}
	if v.Agent != nil {
		lines = append(lines, [2]string{"agent", v.Agent.Name + " " + v.Agent.Version},
			[2]string{"kernel", kernelText(*v.Kernel)},
			[2]string{"download", fmt.Sprintf("%s, missing here: %s", ui.Bytes(v.Download), ui.Bytes(v.Missing))})
	}
	out.facts("  ", append(lines, [2]string{"size", ui.Bytes(v.Size)}, [2]string{"folder", v.Path},
		[2]string{"sbom", v.SBOM.name()}, [2]string{"built", v.Build.name()})...)
	for _, a := range v.Assets {
		title := a.Role
		if a.Name != a.Role {
			title = strings.TrimSpace(a.Role + " " + a.Name)
		}
		fmt.Fprintf(out, "  %s\n", ui.Clean(title))
		out.facts("    ", [][2]string{
			{"state", stateText(a)},
			{"path", a.Path},
			{"archive", a.Archive.text()},
			{"index", a.Index.text()},
			{"content", a.Content.text()},
			{"kept", a.Archive.Path},
		}...)
	}
}

// name is a published file's, empty where there is none.
func (b *blobView) name() string {
	if b == nil {
		return ""
	}
	return b.File
}

func (b blobView) text() string {
	if b.SHA256 == "" {
		return ""
	}
	text := "sha256:" + b.SHA256
	if b.Size > 0 {
		text += ", " + ui.Bytes(b.Size)
	}
	return text
}

// stateText puts the state of an asset into words.
func stateText(a assetView) string {
	switch a.State {
	case store.Ready:
		return "in the cache, " + ui.Bytes(a.Allocated) + " on disk"
	case store.Foreign:
		return "in the cache, kept by a newer smolvm"
	case store.Doubtful:
		return "in the cache, but touched since it was verified: the next use reads all of it"
	}
	text := "not here, " + ui.Bytes(a.Missing) + " to download"
	if a.Partial > 0 {
		text += " less what fills " + ui.Bytes(a.Partial) + " already, of an interrupted download"
	}
	return text
}

func expiryText(now time.Time, c *catalogueView) string {
	day := c.Expires.UTC().Format(time.DateTime)
	if c.Expired {
		return day + ": it has expired, what is here still runs and nothing is fetched"
	}
	return fmt.Sprintf("%s, in %s", day, ui.Age(c.Expires, now))
}

func keyListText(version int) string {
	if version == 0 {
		return ""
	}
	return fmt.Sprintf(", of key list %d", version)
}

// listed joins words for people.
func listed(words []string) string {
	if len(words) == 0 {
		return "nobody"
	}
	return strings.Join(words, ", ")
}

// otherThan are the words that differ from one.
func otherThan(one string, words []string) []string {
	var others []string
	for _, word := range words {
		if word != one {
			others = append(others, word)
		}
	}
	return others
}
