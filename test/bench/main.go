// Command bench measures SmolVM against floors taken in the same run and writes
// docs/benchmarks.md: machine, commit, medians and ratios.
//
// Inputs: the built program and a published folder. It launches real sandboxes
// in a state folder of its own, which it removes. Nothing here passes or fails:
// a missed goal is written down with its number.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// bench is one run: a program, a catalogue and a state folder.
type bench struct {
	smolvm  string
	address string
	home    string
	rounds  int // of what boots a machine; cheap measurements take ten times as many
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	smolvm := flag.String("smolvm", "bin/smolvm", "the program to measure")
	images := flag.String("images", "dist/images", "the published folder to launch from")
	out := flag.String("out", "docs/benchmarks.md", "the report")
	rounds := flag.Int("rounds", 5, "launches of each kind")
	flag.Parse()
	if err := run(ctx, *smolvm, *images, *out, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, smolvm, images, out string, rounds int) (err error) {
	bin, err := filepath.Abs(smolvm)
	if err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "smolvm-bench-")
	if err != nil {
		return err
	}
	server := httptest.NewServer(http.FileServer(http.Dir(images)))
	defer server.Close()
	b := &bench{smolvm: bin, address: server.URL + "/manifest.json", home: home, rounds: rounds}
	defer func() {
		_ = b.command(context.WithoutCancel(ctx), "delete", "--all", "--yes").Run()
		err = errors.Join(err, os.RemoveAll(home))
	}()
	text, err := b.report(ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(out, []byte(text), 0o644)
}

// report takes every measurement and renders it.
func (b *bench) report(ctx context.Context) (string, error) {
	var text strings.Builder
	text.WriteString("# Benchmarks\n\nWritten by `make bench`; every ratio was measured side by side in one run. Medians; in brackets the smallest and largest value.\n")
	for _, part := range []struct {
		name    string
		measure func(context.Context) (string, error)
	}{
		{"machine", describe},
		{"first launch", b.firstLaunch},
		{"warm launch", b.warmLaunch},
		{"sessions", b.sessions},
		{"tool", b.tool},
	} {
		fmt.Fprintln(os.Stderr, "measuring:", part.name)
		section, err := part.measure(ctx)
		if err != nil {
			return "", fmt.Errorf("measure %s: %w", part.name, err)
		}
		text.WriteString("\n" + section)
	}
	text.WriteString(notMeasured)
	return text.String(), nil
}

// notMeasured is what a reader should not look for above.
const notMeasured = `
## Not measured here

- Anything with hardware virtualization: no host with a KVM that runs guests was at hand. Emulated times say how much work is done, not how long users with KVM wait.
- Links slower than loopback, macOS, arm64 hosts.
`

// command prepares one run of the program in this state folder.
func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.smolvm, args...)
	cmd.Env = []string{
		"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8",
		"SMOLVM_HOME=" + b.home, "SMOLVM_MANIFEST=" + b.address,
	}
	return cmd
}

// must runs the program and returns its standard output.
func (b *bench) must(ctx context.Context, args ...string) (string, error) {
	var errs strings.Builder
	cmd := b.command(ctx, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("smolvm %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}
