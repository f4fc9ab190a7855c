package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// askedFile is touched in the state folder whenever a start of a sandbox that
// there is asked for a newer manifest; askAgain is how long none asks then.
const (
	askedFile = "asked"
	askAgain  = 24 * time.Hour
)

// lookForNewer asks for the manifest while the sandbox boots; what comes is
// remembered as always. A start never waits for it, nor fails of it.
func (a *App) lookForNewer(ctx context.Context, image record.Image) (stop func()) {
	c, err := a.Config()
	address := resolve.Address(c)
	if err != nil || address == "" || fetch.Shown(address) != image.Address || !a.askNow(filepath.Join(c.Home, askedFile)) {
		return func() {}
	}
	rules, err := a.rulesAt(address)
	if err != nil {
		return func() {}
	}
	rules.Sink = event.Discard{}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = resolve.LoadCatalogue(ctx, a.source(), address, rules) })
	return func() {
		cancel()
		asking.Wait()
	}
}

// askNow tells whether it is time to ask, and notes that it was done.
func (a *App) askNow(path string) bool {
	now := a.Now()
	info, err := os.Lstat(path)
	if err == nil && (!info.Mode().IsRegular() || now.Sub(info.ModTime()).Abs() < askAgain) {
		return false
	}
	return os.WriteFile(path, nil, 0o644) == nil && os.Chtimes(path, now, now) == nil
}

// toldFile names, in a sandbox's folder, the image that its user was told of.
const toldFile = "newer-told"

// tellNewer says once of each newer image that it exists.
func (a *App) tellNewer(s sandbox.Status) {
	seen := a.SeenLast()
	row, newer := seen.newer(s.Record)
	folder, err := a.folder(s.Name)
	if !newer || err != nil {
		return
	}
	sum := sha256.Sum256([]byte(strings.Join(rowKeys(row), " ")))
	path, image := filepath.Join(folder.Dir(), toldFile), hex.EncodeToString(sum[:])
	if told, err := os.ReadFile(path); err == nil && string(told) == image {
		return
	}
	a.notice("There is a newer image for %s, %s: stop it and run smolvm update %s.", s.Name, seen.viewOf(s.Record).text(), s.Name)
	_ = os.WriteFile(path, []byte(image), 0o600) // else it is said again
}
