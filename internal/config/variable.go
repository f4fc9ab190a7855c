package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

// Bounds of what is read for the environment of a program in a sandbox.
const (
	maxEnvFile  = 1 << 20
	maxVariable = 256
)

// Variables turns entries as -e takes them into an environment: NAME=VALUE sets,
// NAME takes the value that it has here, and is refused where it has none. Files
// are read before, in their order; of several settings of a name the last counts.
func (c Config) Variables(entries, files []string) (map[string]string, error) {
	env := map[string]string{}
	for _, path := range files {
		lines, err := readEnvFile(path)
		if err != nil {
			return nil, err
		}
		if err := c.addVariables(env, lines); err != nil {
			return nil, fmt.Errorf("environment file %s: %w", path, err)
		}
	}
	return env, c.addVariables(env, entries)
}

func (c Config) addVariables(env map[string]string, entries []string) error {
	for _, entry := range entries {
		name, value, given := strings.Cut(entry, "=")
		if err := checkVariable(name); err != nil {
			return err
		}
		if !given {
			if value = c.Getenv(name); value == "" {
				return fault.New(fault.Usage, fmt.Sprintf("Export it, or write %s=VALUE.", name), "variable %s is not set here", name)
			}
		}
		if strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
			return fault.New(fault.Usage, "", "the value of variable %s is not text", name)
		}
		env[name] = value
	}
	return nil
}

// checkVariable accepts the name of a variable. What is none may be a value that
// was put there by mistake: only its beginning is shown.
func checkVariable(name string) error {
	for i := range len(name) {
		c := name[i]
		if !(c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || i > 0 && c >= '0' && c <= '9') {
			return fault.New(fault.Usage, "A name has letters, digits and _, and begins with no digit.", "%.12q is not the name of a variable", name)
		}
	}
	if name == "" || len(name) > maxVariable {
		return fault.New(fault.Usage, "Write NAME or NAME=VALUE.", "a variable has a name of %d characters", len(name))
	}
	return nil
}

// readEnvFile gives the entries of an environment file: one NAME or NAME=VALUE a
// line, empty lines and those that begin with # left out. A value is taken as it
// is, as docker does: quotes are part of it.
func readEnvFile(path string) ([]string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO without a writer would block
	if err != nil {
		return nil, fault.New(fault.NotFound, "Check the path.", "read the environment file: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	switch {
	case errors.Is(err, unix.EISDIR):
		return nil, fault.New(fault.Usage, "Name a file.", "read the environment file: %s is a folder", path)
	case err != nil:
		return nil, fault.New(fault.Usage, "", "read the environment file: %w", err)
	case len(raw) > maxEnvFile:
		return nil, fault.New(fault.Usage, "Shorten it.", "environment file %s has more than %d bytes", path, maxEnvFile)
	}
	return envLines(raw)
}

func envLines(raw []byte) ([]string, error) {
	var entries []string
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\ufeff"))))
	lines.Buffer(nil, maxEnvFile+1)
	for lines.Scan() {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		entries = append(entries, strings.TrimSuffix(line, "\r"))
	}
	return entries, lines.Err()
}
