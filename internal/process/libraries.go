package process

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Libraries are the absolute paths of all files that the loader brings into a Linux
// program when it starts, the loader first: its own answer, as only it knows where it
// looks. A program that is linked statically has none. Nothing of the program is run.
func Libraries(ctx context.Context, program string) ([]string, error) {
	loader, err := loaderOf(program)
	if err != nil || loader == "" {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, loader, "--list", program)
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", Grace
	out, err := Output(cmd)
	if err != nil {
		return nil, fmt.Errorf("list the libraries of %s: %w", program, err)
	}
	return append([]string{loader}, listed(string(out))...), nil
}

// loaderOf is the loader that an ELF program asks for; empty: none.
func loaderOf(program string) (string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("list the libraries of %s: %w", program, err)
	}
	defer file.Close()
	for _, part := range file.Progs {
		if part.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, min(part.Filesz, 4096))
		if _, err := part.ReadAt(name, 0); err != nil {
			return "", fmt.Errorf("list the libraries of %s: %w", program, err)
		}
		path := strings.TrimRight(string(name), "\x00")
		if !filepath.IsAbs(path) {
			return "", errors.New("list the libraries of " + program + ": its loader has no absolute path")
		}
		return path, nil
	}
	return "", nil
}

// listed are the paths in a loader's list, whose lines are "NAME => PATH (ADDRESS)", or
// "PATH (ADDRESS)" for one that is asked for by its path.
func listed(text string) []string {
	var paths []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " (")
		if _, path, found := strings.Cut(line, " => "); found {
			line = path
		}
		if filepath.IsAbs(line) {
			paths = append(paths, line)
		}
	}
	return paths
}
