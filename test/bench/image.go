//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/manifest"
)

// image is a published image that is measured.
type image struct {
	title  string
	folder string
	key    string // file with the public key that signed it; empty: the program knows it
	row    manifest.Row
}

// realImage is claude-code as `make publish` left it.
func (b *bench) realImage() (image, error) {
	row, err := rowOf(b.images)
	return image{title: "claude-code", folder: b.images, row: row}, err
}

// rowOf is claude-code's row for this computer.
func rowOf(folder string) (manifest.Row, error) {
	raw, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		return manifest.Row{}, err
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return manifest.Row{}, err
	}
	for _, row := range m.Rows {
		if row.Preset == "claude-code" && row.Arch == runtime.GOARCH && row.VMM == "qemu" {
			return row, nil
		}
	}
	return manifest.Row{}, fmt.Errorf("%s publishes no claude-code for %s", folder, runtime.GOARCH)
}

// size is the sum of the archives.
func (i image) size() (n int64) {
	for _, asset := range i.row.Assets() {
		n += asset.Archive.Size
	}
	return n
}

// pull brings the image from address into home.
func (b *bench) pull(ctx context.Context, i image, address, home string) *exec.Cmd {
	args := []string{"image", "pull", "claude-code", "--backend", "qemu", "--progress", "json", "--manifest", address + "manifest.json"}
	if i.key != "" {
		args = append(args, "--trusted-key", i.key)
	}
	cmd := b.command(ctx, args...)
	cmd.Env = append(cmd.Env, "SMOLVM_HOME="+home)
	return cmd
}

// pipeline is what people do without SmolVM, for one archive after the other,
// with an fsync of each result as SmolVM makes it. `sync FILE` is fsync.
const pipeline = `set -euo pipefail
cd "$1"; address=$2; shift 2
for file; do
	curl -sSf "$address$file" | tee >(openssl dgst -sha256 >"$file.sum") | zstd -dqf --sparse -o "$file.out"
	sync "$file.out"
done`

func (i image) pipeline(ctx context.Context, address, folder string) *exec.Cmd {
	args := []string{"-c", pipeline, "pipeline", folder, address}
	for _, asset := range i.row.Assets() {
		args = append(args, asset.Archive.File)
	}
	return exec.CommandContext(ctx, "bash", args...)
}

// fresh empties a folder and lets the disk come to rest, so that no measurement
// pays for the one before.
func fresh(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := empty(folder); err != nil {
		return err
	}
	syscall.Sync()
	return nil
}

// expanded are the image's files in a state folder, each inode once.
func expanded(home string) (paths []string, err error) {
	err = filepath.WalkDir(filepath.Join(home, "store", "objects"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "content" {
			paths = append(paths, path)
		}
		return err
	})
	if err == nil && len(paths) == 0 {
		err = errors.New("the store holds no object")
	}
	return paths, err
}

// allocations are what the files take on the disk, and what copies of them made
// with cp --sparse=always take.
func allocations(ctx context.Context, home, folder string) (ours, copied int64, err error) {
	paths, err := expanded(home)
	if err != nil {
		return 0, 0, err
	}
	for n, path := range paths {
		target := filepath.Join(folder, fmt.Sprint(n))
		if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", path, target).CombinedOutput(); err != nil {
			return 0, 0, fmt.Errorf("cp: %w: %s", err, strings.TrimSpace(string(out)))
		}
		syscall.Sync()
		for file, sum := range map[string]*int64{path: &ours, target: &copied} {
			info, err := os.Stat(file)
			if err != nil {
				return 0, 0, err
			}
			*sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
	}
	return ours, copied, nil
}
