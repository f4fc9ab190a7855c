package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// topOptions are what `top` was asked for.
type topOptions struct {
	Names []string // none: all that run
	Every time.Duration
	Count int // of each sandbox; 0: until it is interrupted
	JSON  bool
}

// usageView is what a sandbox used between two looks, in JSON.
type usageView struct {
	Time       time.Time `json:"time"`
	Sandbox    string    `json:"sandbox"`
	CPU        float64   `json:"cpu_percent"` // 100: one of its CPUs all the time
	CPUs       int       `json:"cpus"`
	Memory     int64     `json:"memory_bytes"`
	MemoryUsed int64     `json:"memory_used_bytes"`
	Disk       int64     `json:"disk_bytes"`
	DiskUsed   int64     `json:"disk_used_bytes"`
	Read       int64     `json:"disk_read_per_second"` // bytes
	Written    int64     `json:"disk_written_per_second"`
	Received   int64     `json:"network_received_per_second"`
	Sent       int64     `json:"network_sent_per_second"`
	Processes  int       `json:"processes"`
}

func newTop(app *App, run func(context.Context, *App, topOptions) error) *cobra.Command {
	o := topOptions{}
	cmd := &cobra.Command{
		Use:   "top [NAME...]",
		Short: "Show what running sandboxes use: CPU, memory, disk, network",
		Long: `Show what running sandboxes use, of all where none is named, again and again until
Ctrl-C, which ends it with status 130, or until they have stopped. The numbers are
the sandboxes' own: 100 % is one of its CPUs, its memory is what it was given. They
are read only while somebody looks.

On a terminal the table is redrawn in place. With --json it is one object a line for
each sandbox and time, instead of one envelope.`,
		Example: `  smolvm top
  smolvm top --every 5s claude-code
  smolvm top --count 1 --json`,
		ValidArgsFunction: app.completeAll(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = distinct(args)
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().DurationVar(&o.Every, "every", 2*time.Second, "how often to look")
	cmd.Flags().IntVarP(&o.Count, "count", "n", 0, "end after so many times; 0: do not")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "write one JSON object a line on standard output")
	return cmd
}

func runTop(ctx context.Context, app *App, o topOptions) error {
	switch {
	case o.Every < wire.MinUsage || o.Every > wire.MaxUsage:
		return refuse(fmt.Sprintf("Give %v to %v.", wire.MinUsage, wire.MaxUsage), "--every %v is not possible", o.Every)
	case o.Count < 0:
		return refuse("Give a number from 1.", "--count %d is too few", o.Count)
	}
	boxes, err := app.Sandboxes()
	if err != nil {
		return err
	}
	names, err := app.runningNames(boxes, o.Names)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		app.Streams.Say("No sandbox is running.")
		return nil
	}
	err = app.watchUsage(ctx, boxes, names, o)
	if ctx.Err() != nil {
		return programExit(fault.Interrupted.Exit())
	}
	return err
}

// runningNames are the sandboxes that were named, all of which have to run, or all
// that run.
func (a *App) runningNames(boxes sandboxes, wanted []string) ([]string, error) {
	for _, name := range wanted {
		if _, err := a.runningSandbox(name); err != nil {
			return nil, err
		}
	}
	if len(wanted) > 0 {
		return wanted, nil
	}
	all, err := boxes.List()
	var names []string
	for _, s := range all {
		if s.State == sandbox.Running {
			names = append(names, s.Name)
		}
	}
	return names, err
}

// sample is what one sandbox used, or that there is no more to come from it.
type sample struct {
	name  string
	view  usageView
	ended bool
	err   error
}

// watchUsage shows the samples of all sandboxes as they come.
func (a *App) watchUsage(ctx context.Context, boxes sandboxes, names []string, o topOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	samples := make(chan sample)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for _, name := range names {
		group.Go(func() { a.sampleUsage(ctx, boxes, name, o, samples) })
	}
	board := &usageBoard{app: a, json: o.JSON, names: names, views: map[string]usageView{}, fresh: map[string]bool{}}
	var errs []error
	for len(board.names) > 0 {
		select {
		case s := <-samples:
			if s.ended {
				errs = append(errs, s.err)
			}
			if err := board.take(s); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// sampleUsage sends what one sandbox uses between each two looks, and its end.
func (a *App) sampleUsage(ctx context.Context, boxes sandboxes, name string, o topOptions, samples chan<- sample) {
	send := func(s sample) bool {
		select {
		case samples <- s:
			return true
		case <-ctx.Done():
			return false
		}
	}
	conn, err := boxes.Connect(ctx, name)
	if err == nil {
		var before *wire.Usage
		sent := 0
		err = conn.Usage(ctx, o.Every, func(u wire.Usage) bool {
			goes := true
			if before != nil && u.UptimeMS > before.UptimeMS {
				sent++
				goes = send(sample{name: name, view: usageBetween(name, a.Now(), *before, u)}) && sent != o.Count
			}
			before = &u
			return goes
		})
		err = errors.Join(err, conn.Close())
	}
	if fault.CodeOf(err) == fault.NotRunning {
		err = nil // it stopped, which is no failure of looking
	}
	send(sample{name: name, ended: true, err: err})
}

// usageBetween is what was used from one look to the next.
func usageBetween(name string, now time.Time, before, u wire.Usage) usageView {
	took := float64(u.UptimeMS-before.UptimeMS) / 1000
	rate := func(before, now int64) int64 { return int64(float64(max(now-before, 0)) / took) }
	return usageView{
		Time: now.UTC(), Sandbox: name,
		CPU:  float64(rate(before.CPUMS, u.CPUMS)) / 10,
		CPUs: u.CPUs, Memory: u.Memory, MemoryUsed: u.MemoryUsed, Disk: u.Disk, DiskUsed: u.DiskUsed,
		Read: rate(before.DiskRead, u.DiskRead), Written: rate(before.DiskWritten, u.DiskWritten),
		Received: rate(before.NetReceived, u.NetReceived), Sent: rate(before.NetSent, u.NetSent), Processes: u.Processes,
	}
}

// usageBoard shows samples: each as a line of JSON, or a table whenever every
// sandbox has a new one, or one has two.
type usageBoard struct {
	app   *App
	json  bool
	names []string // still watched
	views map[string]usageView
	fresh map[string]bool // since the last table
	drawn bool
}

func (b *usageBoard) take(s sample) error {
	switch {
	case s.ended:
		b.names = slices.DeleteFunc(slices.Clone(b.names), func(name string) bool { return name == s.name })
	case b.json:
		line, err := json.Marshal(s.view)
		if err == nil {
			_, err = b.app.Streams.Out.Write(append(line, '\n'))
		}
		return err
	default:
		if b.fresh[s.name] { // another one is slow: it does not hold the others up
			if err := b.draw(); err != nil {
				return err
			}
		}
		b.views[s.name], b.fresh[s.name] = s.view, true
	}
	for _, name := range b.names {
		if !b.fresh[name] {
			return nil
		}
	}
	if len(b.fresh) == 0 {
		return nil
	}
	return b.draw()
}

func (b *usageBoard) draw() error {
	table := ui.NewTable("NAME", "CPU", "MEMORY", "DISK", "READ/s", "WRITTEN/s", "RECEIVED/s", "SENT/s", "PROCESSES")
	for _, name := range slices.Sorted(maps.Keys(b.fresh)) {
		v := b.views[name]
		table.Add(name, fmt.Sprintf("%.0f%%", v.CPU), ui.Bytes(v.MemoryUsed)+" of "+ui.Bytes(v.Memory), ui.Bytes(v.DiskUsed)+" of "+ui.Bytes(v.Disk),
			ui.Bytes(v.Read), ui.Bytes(v.Written), ui.Bytes(v.Received), ui.Bytes(v.Sent), fmt.Sprint(v.Processes))
	}
	clear(b.fresh)
	begin := ""
	switch {
	case b.app.Streams.OutTTY && b.app.Streams.Moves:
		begin = "\x1b[H\x1b[2J"
	case b.drawn:
		begin = "\n"
	}
	b.drawn = true
	if _, err := io.WriteString(b.app.Streams.Out, begin); err != nil {
		return err
	}
	return b.app.table(table)
}
