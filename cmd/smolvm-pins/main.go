// Command smolvm-pins looks for newer versions of the agents than the recipes pin.
//
//	smolvm-pins [-write] [-presets FILE] DIR
//	smolvm-pins -packages [-write] DIR
//
// DIR holds the recipes and their lock files. The newest versions come from the npm
// and Python package indexes that npm, pip and uv are configured for. A table goes to
// standard output. With -write each recipe names the newest version, and its lock file
// is made anew; -presets gets the names of the presets that changed, one a line.
//
// A version that cannot be locked, as when the index lacks something that it needs, is
// told, and the recipe stays as it is.
//
// With -packages it is the base's packages that are looked at: apt resolves them for
// each architecture as Debian's archive has them today, and the lock files follow.
//
// No code of a package runs: lock files are resolved from metadata, and Debian's packages only
// unpacked. Lock file and
// recipe are replaced one after the other; a crash between the two leaves a recipe
// whose digest does not fit, which every build refuses, and the next run mends.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/config"
)

func main() {
	write := flag.Bool("write", false, "change the recipes and their lock files")
	changed := flag.String("presets", "", "`FILE` that gets the names of the presets that changed")
	ofBase := flag.Bool("packages", false, "look at the base's packages instead")
	flag.Parse()
	if flag.NArg() != 1 || *ofBase && *changed != "" {
		fmt.Fprintln(os.Stderr, "usage: smolvm-pins [-packages] [-write] [-presets FILE] DIR")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if *ofBase {
		err = refreshPackages(ctx, flag.Arg(0), *write, os.Stdout)
	} else {
		err = refresh(ctx, flag.Arg(0), *write, *changed, os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "smolvm-pins:", err)
		os.Exit(1)
	}
}

// refresh looks at every preset, and changes those that are behind.
func refresh(ctx context.Context, dir string, write bool, changed string, out io.Writer) error {
	presets, err := config.Presets(os.DirFS(dir))
	if err != nil {
		return err
	}
	var names []string
	fmt.Fprintln(out, "| preset | package | pinned | newest | locked packages | unpacked size |\n|---|---|---|---|---|---|")
	for _, p := range presets {
		pin, err := pinOf(dir, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		row, err := pin.refresh(ctx, write)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if row.follows() {
			names = append(names, p.Name)
		}
		if row.stuck != nil {
			fmt.Fprintf(os.Stderr, "%s stays at %s: %v\n", p.Name, pin.version, row.stuck)
		}
		fmt.Fprintln(out, row)
	}
	if changed == "" {
		return nil
	}
	text := strings.Join(names, "\n")
	if text != "" {
		text += "\n"
	}
	return os.WriteFile(changed, []byte(text), 0o644)
}
