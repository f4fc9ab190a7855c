//go:build !linux

package host

import (
	"context"
	"time"
)

// ClockJumps calls tell whenever this computer's clock was set, or the computer
// slept, and returns when ctx ends.
func ClockJumps(ctx context.Context, tell func()) { pollClock(ctx, time.Now, tell) }
