package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
)

// resizeOptions are what `resize` was asked for; zero leaves as it is.
type resizeOptions struct {
	Name         string
	CPUs         int
	Memory, Disk int64 // bytes
	JSON         bool
}

func newResize(app *App, run func(context.Context, *App, resizeOptions) error) *cobra.Command {
	o := resizeOptions{}
	cmd := &cobra.Command{
		Use:   "resize NAME [--cpus N] [--memory SIZE] [--disk SIZE]",
		Short: "Give a sandbox other CPUs, memory or a larger disk",
		Long: `Give a sandbox that is stopped another number of CPUs, another amount of memory,
or a larger disk, from its next start on. The disk of one that runs grows at once.
The disk's file stays as small as what is in it. A disk cannot be made smaller.`,
		Example: `  smolvm resize claude-code --memory 8G --cpus 4
  smolvm resize claude-code --disk 60G`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			flags := cmd.Flags()
			switch {
			case !flags.Changed("cpus") && !flags.Changed("memory") && !flags.Changed("disk"):
				return refuse("Give --cpus, --memory or --disk.", "resize has nothing to change")
			case flags.Changed("cpus") && o.CPUs < 1:
				return refuse("Give a number from 1.", "--cpus %d is too few", o.CPUs)
			}
			return run(cmd.Context(), app, o)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.CPUs, "cpus", 0, "number of CPUs")
	flags.Var(sizeFlag{&o.Memory}, "memory", "memory, such as 2G")
	flags.Var(sizeFlag{&o.Disk}, "disk", "most that the sandbox may write, such as 40G")
	jsonFlag(cmd, &o.JSON, "the sandbox")
	return cmd
}

func runResize(ctx context.Context, app *App, o resizeOptions) error {
	boxes, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	if s.State == sandbox.Broken {
		return fault.New(fault.Conflict, "Delete it: smolvm delete "+o.Name, "sandbox %q is broken: %s", o.Name, s.LastError)
	}
	host, err := app.Machine(s.Arch, s.VMM)
	if err != nil {
		return err
	}
	if err := checkSizes(startOptions{CPUs: o.CPUs, Memory: o.Memory, Disk: o.Disk}, host); err != nil {
		return err
	}
	if s.VMMProgram != nil && s.VMMProgram.Asked && o.CPUs > 0 {
		if err := tooMany(firecracker.Processors(o.CPUs)); err != nil {
			return err
		}
	}
	if o.Disk > 0 && o.Disk < s.DiskBytes {
		return refuse("Make a new sandbox with a smaller --disk, and copy what is needed.",
			"--disk %s is less than the %s that %s has: a disk cannot be made smaller", ui.Bytes(o.Disk), ui.Bytes(s.DiskBytes), o.Name)
	}
	before := s.Record
	when := "from its next start on"
	switch {
	case s.State != sandbox.Running:
		s.Record, err = boxes.Resize(o.Name, sandbox.Size{CPUs: o.CPUs, MemoryMiB: o.Memory >> 20, DiskBytes: o.Disk &^ 4095})
	case o.CPUs > 0 || o.Memory > 0:
		return fault.New(fault.Conflict, "Stop it first: smolvm stop "+o.Name+". Its disk alone can grow while it runs.",
			"sandbox %q is running: its CPUs and memory stay as they are", o.Name)
	default:
		when = "now"
		s.Record, err = boxes.Grow(ctx, o.Name, o.Disk&^4095)
	}
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, app.viewOf(s))
	}
	app.Streams.Say("%s: %s %s", o.Name, sizeChange(before.MemoryMiB, s.MemoryMiB, before.DiskBytes, s.DiskBytes, before.CPUs, s.CPUs), when)
	return nil
}

// sizeChange says what is different, "nothing new" where it is not.
func sizeChange(memory, newMemory, disk, newDisk int64, cpus, newCPUs int) string {
	var parts []string
	if cpus != newCPUs {
		parts = append(parts, cpusText(newCPUs))
	}
	if memory != newMemory {
		parts = append(parts, ui.Bytes(newMemory<<20)+" of memory")
	}
	if disk != newDisk {
		parts = append(parts, "a disk of "+ui.Bytes(newDisk))
	}
	if len(parts) == 0 {
		return "nothing new"
	}
	return strings.Join(parts, ", ")
}

func cpusText(n int) string {
	if n == 1 {
		return "1 CPU"
	}
	return fmt.Sprintf("%d CPUs", n)
}
