package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

const (
	// MinScratch is the smallest scratch in bytes. Below it the journal and the
	// inode tables leave too little for an agent's own caches.
	MinScratch = 64 << 20

	// MaxScratch is the largest scratch in bytes: ext4 with 4 KiB blocks ends at
	// 16 TiB on hosts whose own file system is ext4.
	MaxScratch = 8 << 40
)

// scratchOptions are those of mkfs.ext4. Features are named one by one, so that
// neither the host's mke2fs.conf nor a newer mkfs makes a disk that the guest's
// kernel does not know. Inode tables and journal are not written out: a new
// sparse file reads as zeros already.
var scratchOptions = []string{
	"-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "1", "-L", "scratch",
	"-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg," +
		"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
	"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
}

// CreateScratch makes a sandbox's read-write disk: a sparse file of size bytes,
// with an empty ext4 file system where the host has mkfs.ext4, else blank (the
// guest agent then formats it). It replaces what is at path.
func CreateScratch(ctx context.Context, runner *process.Runner, path string, size int64) error {
	return createScratch(path, size, func(file string) error { return format(ctx, runner, file) })
}

func createScratch(path string, size int64, format func(file string) error) error {
	if size < MinScratch || size > MaxScratch || size%4096 != 0 {
		return fault.New(fault.Usage, fmt.Sprintf("Choose a size from %d MiB to %d TiB.", MinScratch>>20, MaxScratch>>40),
			"a disk of %d bytes cannot be made", size)
	}
	need := scratchNeed(size)
	if err := requireSpace(filepath.Dir(path), need); err != nil {
		return err
	}
	if err := requireFileSize(size); err != nil {
		return err
	}
	err := create(path, func(f *os.File) error {
		if err := f.Truncate(size); err != nil {
			return err
		}
		if err := format(f.Name()); err != nil {
			return err
		}
		return f.Sync()
	})
	return explain(err, "scratch disk", path, need)
}

// scratchNeed bounds what a fresh file system takes on the host's disk in bytes:
// group descriptors and bitmaps, at most 1/1024 of the size (measured: 4 MB of
// 20 GiB), with room for the guest's first mount.
func scratchNeed(size int64) int64 { return 8<<20 + size/1024 }

// requireFileSize fails where the process may not make files that large; the
// kernel would answer with a signal that ends the process.
func requireFileSize(size int64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return fault.New(fault.Host, "", "read the limit of file sizes: %w", err)
	}
	if limit.Cur < uint64(size) {
		return fault.New(fault.Storage, "Raise it (ulimit -f unlimited), or choose a smaller --disk.",
			"a disk of %d bytes exceeds this session's file size limit of %d bytes", size, limit.Cur)
	}
	return nil
}

// format makes the file system, or does nothing where the host cannot.
func format(ctx context.Context, runner *process.Runner, path string) error {
	if _, err := runner.Find(process.MkfsExt4); err != nil {
		return nil // the guest formats a blank disk
	}
	cmd := runner.Command(ctx, process.MkfsExt4, append(scratchOptions[:len(scratchOptions):len(scratchOptions)], path)...)
	cmd.Env = append(cmd.Env, "MKE2FS_CONFIG=/dev/null") // the host's defaults are not ours
	if err := process.Run(cmd); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}
