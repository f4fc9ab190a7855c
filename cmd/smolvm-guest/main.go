//go:build linux

// Command smolvm-guest is the agent inside a SmolVM sandbox. As process 1 it is
// the machine's init; under the names of the power commands it gives their
// orders; as smolvm-sftp it serves files to one session, as smolvm-copy it copies
// them; as xdg-open it has the host open an address.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/browse"
	"github.com/smolvm/smolvm/internal/guest/bulk"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/guest/sshd"
	"github.com/smolvm/smolvm/internal/wire"
)

// version is set at link time.
var version = "development"

func main() {
	if err := run(filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "smolvm-guest: %v\n", err)
		os.Exit(1)
	}
}

func run(name string, args []string) error {
	switch {
	case os.Getpid() == 1:
		return guest.Init(version)
	case name == sshd.SFTPName:
		return sshd.ServeSFTP(os.Stdin, os.Stdout, os.Getenv("HOME"))
	case name == bulk.CopyName:
		return bulk.Copy(args, os.Stdin, os.Stdout, os.Getenv("HOME"))
	case slices.Contains(browse.Names(), name):
		return browse.Open(args, wire.OpenSocket)
	case slices.Contains(setup.PowerCommands(), name):
		return guest.PowerCommand(name, args)
	}
	return fmt.Errorf("version %s: this is the init of a SmolVM sandbox and does nothing elsewhere", version)
}
