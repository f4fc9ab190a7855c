package acquire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/unpack"
)

// state is how far one frame of an asset is.
type state uint8

const (
	missing state = iota // to be downloaded
	taken                // somebody fetches, copies, checks or writes it
	here                 // verified and written
)

// mode is how an asset's archive is downloaded.
type mode uint8

const (
	unknown mode = iota // nobody has asked
	asking              // one connection finds out
	ranged              // many connections, each a run of frames
	plain               // one connection, from the first byte
)

// asset is one file on its way into the store.
type asset struct {
	manifest.Asset
	claim   *store.Claim
	index   unpack.Index
	raw     []byte // the index as published
	writer  *unpack.Writer
	archive *os.File // gets the archive too; nil: nobody asked for it
	begun   time.Time

	stored  bool     // the object is here and right, only its archive is missing
	damaged bool     // an object is here that is not what it was
	old     *os.File // its content; nil: cannot be read
	bad     []int    // frames that are known to be wrong in it

	met   bool         // whether its claim is free is known
	moved atomic.Int64 // archive bytes that are here or on their way
	told  atomic.Int64 // when that was last reported, in nanoseconds
	over  bool         // guarded by flight.telling: nothing is reported any more

	// Guarded by the board.
	frames []state
	left   int // frames that are not here
	lines  int // connections at work on it
	mode   mode
	copied int    // frames that came from the damaged object
	wrong  string // place whose archive has another digest as a whole

	// Of an archive that is kept: the frames that the content holds, and those
	// that the archive holds. nil: none is kept.
	have, packed []bool
}

func (a *asset) key() string { return a.Index.SHA256 }

// length is that of frame i in the archive.
func (a *asset) length(i int) int64 { return a.index.Frames[i].Length }

// end is the offset behind frame i in the archive.
func (a *asset) end(i int) int64 { return a.index.Frames[i].Offset + a.index.Frames[i].Length }

// close gives back what the asset holds. An asset that was not committed keeps
// its partial for the next run.
func (a *asset) close() error {
	var err error
	if a.old != nil {
		err = a.old.Close()
		a.old = nil
	}
	if a.claim != nil {
		err = errors.Join(err, a.claim.Release())
		a.claim = nil
	}
	return err
}

// commit puts the asset into the store.
func (a *asset) commit(ctx context.Context) error {
	if a.stored {
		return a.claim.KeepArchive(ctx)
	}
	_, err := a.claim.Commit(ctx, a.origin(), a.raw)
	return err
}

func (a *asset) origin() store.Origin {
	return store.Origin{Name: a.Name, Archive: a.Archive.Digest, Content: a.Content}
}

// damage says what is wrong with the damaged object.
func (a *asset) damage() string {
	if len(a.bad) > 0 {
		return fmt.Sprintf("%d of its frames are wrong", len(a.bad))
	}
	return "the file or its index is gone, or is not of its size"
}

// repairs says what was done about the damaged object.
func (a *asset) repairs() string {
	if len(a.bad) > 0 {
		return fmt.Sprintf("%d of %d frames were wrong and were replaced", len(a.bad), len(a.index.Frames))
	}
	return fmt.Sprintf("it was made anew, with %d of %d frames from the file that was here", a.copied, len(a.index.Frames))
}
