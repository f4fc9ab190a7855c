package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// plain is a version that may be pinned; both indexes know others, for which nobody
// asked. It also keeps what an index answers out of scripts.
var plain = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)

// run returns what a package manager writes on standard output.
func run(ctx context.Context, dir, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return string(out), nil
}

func checked(name, version string) (string, error) {
	if !plain.MatchString(version) {
		return "", fmt.Errorf("the newest version of %s is %q, which is not of the form 1.2.3", name, version)
	}
	return version, nil
}

type npm struct{}

func (npm) newest(ctx context.Context, name string) (string, error) {
	out, err := run(ctx, "", "", "npm", "view", name, "version")
	if err != nil {
		return "", err
	}
	return checked(name, strings.TrimSpace(out))
}

func (npm) size(ctx context.Context, name, version string) int64 {
	out, err := run(ctx, "", "", "npm", "view", name+"@"+version, "dist.unpackedSize")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(out), 10, 64) // an index need not say it
	return n
}

// lock resolves in an empty folder, so that no other package is newer than it has to
// be or older than it was.
func (npm) lock(ctx context.Context, name, version string, old []byte) ([]byte, error) {
	var project struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(old, &project); err != nil {
		return nil, fmt.Errorf("read its lock file: %w", err)
	}
	dir, err := os.MkdirTemp("", "smolvm-pins-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	manifest, err := json.Marshal(map[string]any{"name": project.Name, "private": true, "dependencies": map[string]string{name: version}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o600); err != nil {
		return nil, err
	}
	if _, err := run(ctx, dir, "", "npm", "install", "--package-lock-only", "--ignore-scripts",
		"--omit-lockfile-registry-resolved", "--no-audit", "--no-fund", "--no-update-notifier"); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "package-lock.json"))
}

type pypi struct{}

func (pypi) newest(ctx context.Context, name string) (string, error) {
	out, err := run(ctx, "", "", "python3", "-m", "pip", "--disable-pip-version-check", "index", "versions", name)
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`\(([^)]+)\)`).FindStringSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("pip says of %s: %q", name, out)
	}
	return checked(name, m[1])
}

func (pypi) size(context.Context, string, string) int64 { return 0 }

func (pypi) lock(ctx context.Context, name, version string, _ []byte) ([]byte, error) {
	out, err := run(ctx, "", name+"=="+version+"\n", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.13",
		"--only-binary", ":all:", "--generate-hashes", "--no-header", "--no-annotate", "-")
	return []byte(out), err
}
