// Command smolvm-dist does for scripts/dist what a shell is unfit for.
//
//	smolvm-dist docs VERSION EPOCH DIR
//	        manual pages and completions, from what the commands say of themselves
//	smolvm-dist sbom VERSION EPOCH PROGRAM... [-- GUEST...]
//	        the modules in the programs, as SPDX in JSON, to standard output
//	smolvm-dist catalogue VERSION EPOCH THRESHOLD MANIFEST-DIR OUT-DIR KEY.pub...
//	        checks what a release is to carry, copies it, prints the keys in one line;
//	        MANIFEST-DIR may be empty: only the keys are checked then
//	smolvm-dist sign VERSION KEY FILE...
//	        FILE.minisig beside each file
//
// EPOCH is seconds since 1970: the time that everything in a release carries. Equal
// inputs give equal bytes. Development keys are refused. A crash leaves files that
// scripts/dist never puts into place.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// tasks are the first words of the command line.
var tasks = map[string]func(args []string, out io.Writer) error{
	"docs": docs, "sbom": sbom, "catalogue": catalogue, "sign": sign,
}

func main() {
	if len(os.Args) < 2 || tasks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: smolvm-dist docs|sbom|catalogue|sign ARGS...")
		os.Exit(2)
	}
	if err := tasks[os.Args[1]](os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "smolvm-dist %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// want refuses a command line with too few words.
func want(args []string, n int) error {
	if len(args) < n {
		return fmt.Errorf("%d arguments, at least %d are needed", len(args), n)
	}
	return nil
}

func moment(epoch string) (time.Time, error) {
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the time of the release: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
