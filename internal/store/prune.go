package store

import (
	"context"
	"time"
)

// Holder is somebody who needs objects to stay.
type Holder struct {
	Name string // "sandbox claude-code"
	Keys []string
}

// PruneOptions say what may go.
type PruneOptions struct {
	// Holders is asked under the store's lock, after the leases were read: whoever
	// writes his record before he releases his lease is seen in one of the two.
	Holders func(context.Context) ([]Holder, error)
	Current []string // releases whose images stay unless All
	All     bool     // everything that nobody holds
	DryRun  bool     // only tell
	Keep    int64    // take the least recently used only until this many bytes are left; -1: take all that may go
	Now     time.Time
}

// Pruned is what was removed, or with DryRun would be.
type Pruned struct {
	Images   []string     `json:"images"`
	Objects  int          `json:"objects"`
	Partials int          `json:"partials"`
	Items    []PrunedItem `json:"items"`
	Freed    int64        `json:"freed"` // bytes that the disk gains
	Held     []Held       `json:"held"`
}

// PrunedItem is one thing that was removed. The sum of all Bytes is Freed.
type PrunedItem struct {
	Kind  string `json:"kind"` // image, object, partial, temp
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Held is something that stayed because somebody needs it.
type Held struct {
	Name string `json:"name"`
	By   string `json:"by"`
}

// Prune removes what nobody needs any more.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) { return Pruned{}, nil }

// Remove removes images and the objects that only they need.
func (s *Store) Remove(ctx context.Context, images []Image, holders func(context.Context) ([]Holder, error), dryRun bool) (Pruned, error) {
	return Pruned{}, nil
}
