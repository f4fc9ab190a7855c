// Package fault is the one error type that carries what the top of the program
// needs to render a failure: a stable code, the exit status that belongs to it,
// and a hint that says what to do.
//
// Rooms below wrap ordinary errors with %w and make a Fault only where they
// know the code. The top of the program renders the outermost text once.
// Nothing is kept on disk.
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Code names a class of failure. Codes are part of the JSON interface: they are
// never renamed, only added to.
type Code string

// The codes, in the order of their exit statuses.
const (
	Internal    Code = "internal"    // a defect of SmolVM itself
	Usage       Code = "usage"       // the command line cannot be honoured
	NotFound    Code = "not-found"   // no such preset, sandbox, image, file
	Conflict    Code = "conflict"    // the name is taken, or the object is in another state
	NotRunning  Code = "not-running" // the sandbox has to run for this
	Host        Code = "host"        // this computer lacks something: QEMU, memory, permission
	Network     Code = "network"     // an address cannot be reached or answers wrongly
	Trust       Code = "trust"       // a signature, digest, serial or expiry was refused
	Storage     Code = "storage"     // disk full, folder not writable
	Boot        Code = "boot"        // the virtual machine did not become ready, or died
	Build       Code = "build"       // a recipe failed
	Interrupted Code = "interrupted" // Ctrl-C, SIGTERM
)

// Exit statuses of commands that hand back another program's status (start,
// attach, exec, ssh), as docker run has them.
const (
	ExitSmolVM    = 125 // SmolVM failed before or beside the program
	ExitCannotRun = 126 // the program was found and could not be run
	ExitNotThere  = 127 // the program was not found
	exitInterrupt = 130 // 128 + SIGINT
	exitUnknown   = 1
)

// exits is the documented exit-status table of docs/commands.md.
var exits = map[Code]int{
	Internal: exitUnknown, Usage: 2, NotFound: 3, Conflict: 4, NotRunning: 5, Host: 6,
	Network: 7, Trust: 8, Storage: 9, Boot: 10, Build: 11, Interrupted: exitInterrupt,
}

// Exit is the documented exit status of the code.
func (c Code) Exit() int {
	if n, ok := exits[c]; ok {
		return n
	}
	return exitUnknown
}

// Fault is an error with a code and a hint. Its text is the text of Err.
type Fault struct {
	Code Code
	Hint string // what the user can do, one or two short sentences; may be empty
	Err  error  // what was attempted, on which object, and why it failed
}

// Error is the text of the wrapped error.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap gives the wrapped error to errors.Is and errors.As.
func (f *Fault) Unwrap() error { return f.Err }

// New makes a fault from a format, as fmt.Errorf does (%w included).
func New(code Code, hint, format string, args ...any) *Fault {
	return &Fault{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// CodeOf finds the code of an error: that of the first Fault in its chain,
// Interrupted for a cancelled context, Internal otherwise.
func CodeOf(err error) Code {
	var f *Fault
	switch {
	case errors.As(err, &f):
		return f.Code
	case errors.Is(err, context.Canceled):
		return Interrupted
	}
	return Internal
}

// HintOf finds the hint of the first Fault in the chain that has one.
func HintOf(err error) string {
	var f *Fault
	for errors.As(err, &f) {
		if f.Hint != "" {
			return f.Hint
		}
		err = f.Err
	}
	return ""
}
