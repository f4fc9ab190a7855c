// Command smolvm-quickstart takes a checkout that is compiled from there to a first
// launch: it has smolvm build and publish one preset's image into dist/images,
// serves that folder over HTTP on this computer's loopback, and launches from it
// with an empty state folder. It ends with a table of what each stage took.
//
// Whatever interrupts it leaves no sandbox and no state folder behind; the build
// cache and the published folder only ever hold complete results.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/ui"
)

// options are what the command line says.
type options struct {
	Preset   string // the word for it
	Dist     string // absolute: holds the development key and the published images
	Program  string // absolute path of smolvm
	Kernel   string // folder that kernel/build left; empty: a distribution's stands in
	Progress ui.Style
	Steps    []stage // taken before this program ran
}

// quickstart is one run.
type quickstart struct {
	options
	streams *ui.Streams
	report  *report
	config  config.Config
	run     *process.Runner
	now     func() time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	streams := ui.NewStreams(os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	err := run(ctx, streams, os.Args[1:])
	stop()
	if err != nil {
		streams.Fail(err)
		os.Exit(fault.CodeOf(err).Exit())
	}
}

func run(ctx context.Context, streams *ui.Streams, args []string) error {
	o, err := parse(args, streams.Err)
	if err != nil {
		return err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return fmt.Errorf("find the user's home: %w", err)
	}
	c, err := config.Load(os.Environ(), home)
	if err != nil {
		return err
	}
	if c.BuildCache == "" {
		c.BuildCache = filepath.Join(home, ".cache", "smolvm-build")
	}
	progress := ui.NewProgress(streams, o.Progress, time.Now)
	defer progress.Close()
	q := &quickstart{
		options: o, streams: streams, report: &report{sink: progress}, config: c, now: time.Now,
		run: process.New(process.Options{Environ: os.Environ(), Self: o.Program}),
	}
	if err := q.publish(ctx); err != nil {
		return err
	}
	l, err := q.launch(ctx)
	progress.Close()
	if err != nil {
		return err
	}
	return q.summary(l)
}

// parse reads the command line.
func parse(args []string, errs io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("smolvm-quickstart", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.StringVar(&o.Preset, "preset", "claude", "the preset to build and launch")
	dist := flags.String("dist", "dist", "folder of the development key and the published images")
	program := flags.String("program", "bin/smolvm", "the program to launch with")
	flags.StringVar(&o.Kernel, "kernel", "", "folder that kernel/build left (default a distribution's kernel)")
	progress := flags.String("progress", string(ui.Auto), "auto, plain or json")
	flags.Func("step", "NAME=DURATION of something done before", func(text string) error {
		s, err := parseStage(text)
		o.Steps = append(o.Steps, s)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return o, fault.New(fault.Usage, "", "read the command line: %w", err)
	}
	if flags.NArg() > 0 {
		return o, fault.New(fault.Usage, "", "read the command line: nothing is known about %q", flags.Arg(0))
	}
	o.Progress = ui.Style(*progress)
	var err error
	if o.Dist, err = filepath.Abs(*dist); err != nil {
		return o, err
	}
	o.Program, err = filepath.Abs(*program)
	return o, err
}

// parseStage reads NAME=DURATION.
func parseStage(text string) (stage, error) {
	name, took, ok := strings.Cut(text, "=")
	d, err := time.ParseDuration(took)
	if !ok || err != nil {
		return stage{}, fmt.Errorf("%q is not NAME=DURATION", text)
	}
	return stage{name: name, took: d}, nil
}

// images is the published folder.
func (o options) images() string { return filepath.Join(o.Dist, "images") }

// manifest is the published manifest's path.
func (o options) manifest() string { return filepath.Join(o.images(), "manifest.json") }

// arch is what the quickstart builds for: this computer.
const arch = runtime.GOARCH
