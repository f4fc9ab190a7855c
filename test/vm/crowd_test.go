//go:build vm

package vm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
)

// TestCrowdOfPulls has fifty processes want the same image of an empty cache:
// every archive goes over the wire once, and all get it.
func TestCrowdOfPulls(t *testing.T) {
	needLong(t)
	from := serve(t, *images)
	w := theWorld.fresh(t, from.address)
	crowd(t, w, 50, func(int) []string { return []string{"image", "pull", "claude"} })
	wantOneDownload(t, from)
	w.idle(t, "after the crowd")
}

// TestCrowdOfLaunches has ten processes launch from an empty cache.
func TestCrowdOfLaunches(t *testing.T) {
	needLong(t)
	from := serve(t, *images)
	w := theWorld.fresh(t, from.address)
	name := func(i int) string { return fmt.Sprintf("crowd-%d", i) }
	const many = 10
	crowd(t, w, many, func(i int) []string { return append(launch(name(i)), "--timeout", "8m") })
	wantOneDownload(t, from)
	identities := map[string]bool{}
	for i := range many {
		identities[w.must(t, "exec", name(i), "--", "cat", "/etc/machine-id", "/etc/hostname")] = true
	}
	if len(identities) != many {
		t.Errorf("%d sandboxes have %d identities", many, len(identities))
	}
	w.must(t, "delete", "--all", "--yes")
	w.idle(t, "after the crowd")
}

// crowd runs commands at once, all of which have to succeed.
func crowd(t *testing.T, w *world, many int, args func(i int) []string) {
	t.Helper()
	results := make([]result, many)
	var group sync.WaitGroup
	for i := range many {
		group.Go(func() { results[i] = w.run(t, nil, args(i)...) })
	}
	group.Wait()
	for i, got := range results {
		if got.status != 0 {
			t.Errorf("process %d of %d ended with %d: %s", i, many, got.status, got.stderr)
		}
	}
}

func wantOneDownload(t *testing.T, from *mirror) {
	t.Helper()
	sent, rows := from.downloads(), published(t).Rows
	at := slices.IndexFunc(rows, func(r manifest.Row) bool {
		return r.Preset == "claude-code" && r.Arch == runtime.GOARCH && r.VMM == "qemu"
	})
	if want := len(rows[at].Assets()); len(sent) != want {
		t.Errorf("%d archives were downloaded, the image has %d", len(sent), want)
	}
	for _, asset := range rows[at].Assets() {
		least := needed(t, asset)
		if bytes := sent[asset.Archive.File]; bytes < least || bytes > asset.Archive.Size {
			t.Errorf("%s: %d bytes went over the wire, of %d, of which %d hold data", asset.Archive.File, bytes, asset.Archive.Size, least)
		}
	}
}

// needed is how many bytes of an archive have to be downloaded: frames of zeros are
// known beforehand, and those at either end are left out.
func needed(t *testing.T, asset manifest.Asset) (bytes int64) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(*images, asset.Index.File))
	if err != nil {
		t.Fatal(err)
	}
	index, err := unpack.ParseIndex(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range index.Frames {
		if !frame.Zero {
			bytes += frame.Length
		}
	}
	return bytes
}
