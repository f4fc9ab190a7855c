//go:build linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/smolvm/smolvm/internal/wire"
)

// RemoveStale removes the upper directories of earlier generations, which no root
// uses any more, until ctx ends: the next boot goes on. It is slow where much was
// changed, so it runs beside everything else.
func (r *Root) RemoveStale(ctx context.Context) error {
	if r.generation == 0 {
		return nil
	}
	scratch, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", r.scratch.Fd()))
	if err != nil {
		return fmt.Errorf("open scratch: %w", err)
	}
	defer scratch.Close()
	names, err := readNames(scratch, ".")
	if err != nil {
		return fmt.Errorf("remove what earlier layers were changed by: %w", err)
	}
	for _, name := range names {
		if stale(name, r.generation) {
			err = errors.Join(err, removeTree(ctx, scratch, name))
		}
	}
	return err
}

// stale tells whether a name on the scratch is that of another generation.
func stale(name string, generation int) bool {
	for _, dir := range []string{wire.ScratchUpper, wire.ScratchWork} {
		if name == dir || strings.HasPrefix(name, dir+"-") {
			return name != wire.Generation(dir, generation)
		}
	}
	return false
}

// removeTree is RemoveAll that ends with ctx.
func removeTree(ctx context.Context, root *os.Root, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := root.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	names, dirErr := readNames(root, name)
	if dirErr != nil {
		return err // it is no directory, and cannot be removed
	}
	for _, child := range names {
		if err := removeTree(ctx, root, path.Join(name, child)); err != nil {
			return err
		}
	}
	return root.Remove(name)
}

func readNames(root *os.Root, name string) ([]string, error) {
	dir, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
