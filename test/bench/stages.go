//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/unpack"
)

// stage names of the floor.
var stageNames = []string{"download", "hash", "decode", "write and fsync"}

// alone measures each stage of a pull by itself, on all cores where it can use
// them: what no program that does all four can beat.
func (i image) alone(ctx context.Context, server *nginx, folder string) ([]usage, error) {
	sum := make([]usage, len(stageNames))
	for _, asset := range i.row.Assets() {
		archive, err := os.ReadFile(filepath.Join(i.folder, asset.Archive.File))
		if err != nil {
			return nil, err
		}
		raw, err := os.ReadFile(filepath.Join(i.folder, asset.Index.File))
		if err != nil {
			return nil, err
		}
		ix, err := unpack.ParseIndex(raw)
		if err != nil {
			return nil, err
		}
		w := work{index: ix, archive: archive, plain: make([][]byte, len(ix.Frames))}
		if err := fresh(folder); err != nil {
			return nil, err
		}
		for n, stage := range []func() (usage, error){
			func() (usage, error) { return download(ctx, server, asset.Archive.File) },
			func() (usage, error) { return self(w.hash) },
			func() (usage, error) { return self(w.decode) },
			func() (usage, error) { return self(func() error { return w.write(filepath.Join(folder, "out")) }) },
		} {
			if n == len(stageNames)-1 {
				err = w.keep()
			}
			u, failed := stage()
			if err := errors.Join(err, failed); err != nil {
				return nil, fmt.Errorf("%s alone: %w", stageNames[n], err)
			}
			sum[n].wall += u.wall
			sum[n].cpu += u.cpu
		}
	}
	return sum, nil
}

// download is curl to nowhere; the server's processor time counts.
func download(ctx context.Context, server *nginx, file string) (usage, error) {
	pids := server.pids()
	before := processors(pids)
	u, err := watched(exec.CommandContext(ctx, "curl", "-sSf", "-o", "/dev/null", server.address+file))
	u.cpu += processors(pids) - before
	return u, err
}

// self measures work in this process.
func self(f func() error) (usage, error) {
	begun, before := time.Now(), ownProcessor()
	err := f()
	return usage{wall: time.Since(begun), cpu: ownProcessor() - before}, err
}

func ownProcessor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// work is one asset in memory.
type work struct {
	index   unpack.Index
	archive []byte
	plain   [][]byte // by frame, once decoded
}

// each calls f for all frames that hold anything, on all cores. Every core has a
// buffer that f may use again.
func (w work) each(f func(frame int, buffer *[]byte) error) error {
	var next atomic.Int64
	var group errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			var buffer []byte
			for i := int(next.Add(1)) - 1; i < len(w.index.Frames); i = int(next.Add(1)) - 1 {
				if w.index.Frames[i].Zero {
					continue
				}
				if err := f(i, &buffer); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (w work) packed(i int) []byte {
	frame := w.index.Frames[i]
	return w.archive[frame.Offset:][:frame.Length]
}

func (w work) hash() error {
	return w.each(func(i int, _ *[]byte) error { sha256.Sum256(w.packed(i)); return nil })
}

// decode decodes into one buffer per core, as a pull does.
func (w work) decode() error {
	return w.decoded(func(_ int, buffer *[]byte) *[]byte { return buffer })
}

// keep decodes what write is going to write.
func (w work) keep() error {
	return w.decoded(func(i int, _ *[]byte) *[]byte { return &w.plain[i] })
}

func (w work) decoded(into func(frame int, buffer *[]byte) *[]byte) error {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.IgnoreChecksum(true))
	if err != nil {
		return err
	}
	defer decoder.Close()
	return w.each(func(i int, buffer *[]byte) (err error) {
		out := into(i, buffer)
		*out, err = decoder.DecodeAll(w.packed(i), (*out)[:0])
		return err
	})
}

// write writes all blocks that hold anything and ends with an fsync: long runs
// past the page cache, the fastest way there is.
func (w work) write(path string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(w.index.Size); err != nil {
		return err
	}
	direct, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		direct = out // a file system without
	} else {
		defer direct.Close()
	}
	err = w.each(func(i int, _ *[]byte) error { return writeRuns(out, direct, w.plain[i], w.index.Place(i)) })
	if err != nil {
		return err
	}
	return out.Sync()
}

// writeRuns leaves zero blocks out.
func writeRuns(out, direct *os.File, data []byte, at int64) error {
	const block, long = 4096, 256 << 10
	var zero [block]byte
	for start := 0; start < len(data); {
		end := start
		for end < len(data) && string(data[end:min(end+block, len(data))]) != string(zero[:min(block, len(data)-end)]) {
			end = min(end+block, len(data))
		}
		file := out
		if end-start >= long && end%block == 0 {
			file = direct
		}
		if end > start {
			if _, err := file.WriteAt(data[start:end], at+int64(start)); err != nil {
				return err
			}
		}
		start = end + block
	}
	return nil
}
