package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/process"
)

// refreshPackages compares the locks of the base's packages with the archive, and
// with write replaces them.
func refreshPackages(ctx context.Context, dir string, write bool, out io.Writer) error {
	base, err := recipe(dir)
	if err != nil {
		return err
	}
	run := process.New(process.Options{Environ: os.Environ()})
	fmt.Fprintln(out, "| architecture | package | locked | newest |\n|---|---|---|---|")
	for _, arch := range imagebuild.Arches {
		fresh, err := packagesOf(ctx, run, base, arch)
		if err != nil {
			return fmt.Errorf("lock the packages for %s: %w", arch, err)
		}
		file := filepath.Join(dir, filepath.FromSlash(images.BaseLock(arch)))
		old, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("read the lock file: %w", err)
		}
		for _, line := range compareLocks(string(old), string(fresh)) {
			fmt.Fprintf(out, "| %s | %s |\n", arch, line)
		}
		if write {
			if err := replace(file, fresh); err != nil {
				return err
			}
		}
	}
	return nil
}

// recipe reads the base's recipe without its locks, which may lack what it names.
func recipe(dir string) (base imagebuild.Base, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, images.BaseFile))
	if err != nil {
		return base, fmt.Errorf("read the base recipe: %w", err)
	}
	return base, config.DecodeRecipe(raw, "base recipe "+images.BaseFile, &base)
}

// packagesOf is the lock for what the archive has today.
func packagesOf(ctx context.Context, run *process.Runner, base imagebuild.Base, arch string) ([]byte, error) {
	work, err := os.MkdirTemp("", "smolvm-pins-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	return imagebuild.LockPackages(ctx, run, base, arch, work)
}

// compareLocks gives a row "name | before | after" for each package that differs.
func compareLocks(before, after string) (rows []string) {
	old, fresh := versions(before), versions(after)
	names := map[string]bool{}
	for name := range old {
		names[name] = true
	}
	for name := range fresh {
		names[name] = true
	}
	for name := range names {
		if old[name] != fresh[name] {
			rows = append(rows, fmt.Sprintf("%s | %s | %s", name, version(old[name]), version(fresh[name])))
		}
	}
	slices.Sort(rows)
	return rows
}

// versions are the lines of a lock without the names, by name: a file may change
// under the same version.
func versions(lock string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(lock) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			found[name] = rest
		}
	}
	return found
}

func version(rest string) string {
	text, _, _ := strings.Cut(rest, " ")
	return text
}
