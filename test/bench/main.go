//go:build linux

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
	"regexp"
	"strings"
	"syscall"
	"time"
)

// bench is one run: a program, a catalogue and a state folder.
type bench struct {
	smolvm  string
	images  string // the published folder
	address string // its manifest, served without limit
	home    string
	env     []string // what a launch gets besides
	scratch string   // folder for everything else that is made and thrown away
	rounds  int      // of what takes seconds; cheap measurements take ten times as many
	made    *synthetic
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	smolvm := flag.String("smolvm", "bin/smolvm", "the program to measure")
	images := flag.String("images", "dist/images", "the published folder to launch from")
	out := flag.String("out", "docs/benchmarks.md", "the report; - is standard output")
	rounds := flag.Int("rounds", 5, "launches and pulls of each kind")
	only := flag.String("run", "", "measure only the parts whose name matches, and write to standard output: "+strings.Join(names(), ", "))
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err == nil {
		if *only != "" {
			*out = "-"
		}
		err = run(ctx, *smolvm, *images, *out, *rounds, pattern)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, smolvm, images, out string, rounds int, only *regexp.Regexp) (err error) {
	bin, err := filepath.Abs(smolvm)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "smolvm-bench-")
	if err != nil {
		return err
	}
	server := httptest.NewServer(http.FileServer(http.Dir(images)))
	defer server.Close()
	b := &bench{
		smolvm: bin, images: images, address: server.URL + "/manifest.json",
		home: filepath.Join(folder, "home"), scratch: filepath.Join(folder, "scratch"), rounds: rounds,
	}
	defer func() {
		_ = b.command(context.WithoutCancel(ctx), "delete", "--all", "--yes").Run()
		err = errors.Join(err, os.RemoveAll(folder))
	}()
	if err := errors.Join(os.Mkdir(b.home, 0o755), os.Mkdir(b.scratch, 0o755)); err != nil {
		return err
	}
	text, err := b.report(ctx, only)
	if err != nil {
		return err
	}
	if out == "-" {
		_, err = os.Stdout.WriteString(text)
		return err
	}
	return os.WriteFile(out, []byte(text), 0o644)
}

// part is one section of the report.
type part struct {
	name    string
	measure func(*bench, context.Context) (string, error)
}

// parts are in the report's order.
func parts() []part {
	return []part{
		{"machine", func(_ *bench, ctx context.Context) (string, error) { return describe(ctx) }},
		{"pull", (*bench).pullReal},
		{"synthetic", (*bench).pullSynthetic},
		{"upgrade", (*bench).upgrade},
		{"crowd", (*bench).crowd},
		{"check", (*bench).check},
		{"slow", (*bench).slowLink},
		{"links", (*bench).links},
		{"first launch", (*bench).firstLaunch},
		{"warm launch", (*bench).warmLaunch},
		{"kernels", (*bench).kernels},
		{"local build", (*bench).localBuild},
		{"sessions", (*bench).sessions},
		{"attach", (*bench).attaches},
		{"crowd of sandboxes", (*bench).sandboxes},
		{"mounts", (*bench).mounts},
		{"network", (*bench).network},
		{"firecracker", (*bench).firecracker},
		{"boot arguments", (*bench).arguments},
		{"tool", (*bench).tool},
	}
}

func names() (list []string) {
	for _, p := range parts() {
		list = append(list, p.name)
	}
	return list
}

// report takes the measurements and renders them.
func (b *bench) report(ctx context.Context, only *regexp.Regexp) (string, error) {
	var text strings.Builder
	text.WriteString("# Benchmarks\n\nWritten by `make bench`; every ratio was measured side by side in one run. Medians; in brackets the smallest and largest value. MiB are 1048576 bytes.\n")
	for _, p := range parts() {
		if !only.MatchString(p.name) {
			continue
		}
		begun := time.Now()
		section, err := p.measure(b, ctx)
		if err != nil {
			return "", fmt.Errorf("measure %s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "measured: %s, in %s\n", p.name, show(time.Since(begun)))
		text.WriteString("\n" + section)
	}
	text.WriteString(notMeasured)
	return text.String(), nil
}

// notMeasured is what a reader should not look for above.
const notMeasured = `
## Not measured here

- Anything with hardware virtualization: no host with a KVM that runs ordinary guests was at hand. Emulated times say how much work is done, not how long users with KVM wait.
- Links with delay or loss, TLS, object stores and CDNs, macOS, arm64 hosts.
`

// command prepares one run of the program in this state folder.
func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.smolvm, args...)
	cmd.Env = append([]string{
		"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8",
		"SMOLVM_HOME=" + b.home, "SMOLVM_MANIFEST=" + b.address,
	}, b.env...)
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
