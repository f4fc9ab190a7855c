//go:build !linux

package cage

import (
	"fmt"
	"io"
)

// Stage refuses.
func Stage(errs io.Writer) int {
	fmt.Fprintln(errs, complaint+"namespaces are a part of Linux")
	return failStatus
}
