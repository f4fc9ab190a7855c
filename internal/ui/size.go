package ui

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// units of sizes, each 1024 times the one before it.
var units = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// Bytes renders a number of bytes: "0 B", "1.5 GiB".
func Bytes(n int64) string {
	if n < 1024 && n > -1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for math.Abs(value) >= 1023.95 && unit < len(units)-1 { // 1023.95 would be printed as 1024.0
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// Elapsed renders a measured time: "0.4 s", "12.3 s", "3 min 5 s", "2 h 1 min".
func Elapsed(d time.Duration) string {
	switch {
	case d < 99950*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
}

// Left renders an estimate in seconds, which no fraction of a second makes
// better: "4 s", "2 min 10 s".
func Left(seconds float64) string {
	d := time.Duration(math.Ceil(seconds)) * time.Second
	if d < 100*time.Second {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return Elapsed(d)
}

// Age renders how long ago something was, in its largest unit: "5 minutes".
// A time that is not set gives "-".
func Age(now, then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	d := max(now.Sub(then), 0)
	for _, unit := range []struct {
		name string
		long time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if n := int(d / unit.long); n == 1 {
			return "1 " + unit.name
		} else if n > 1 {
			return strconv.Itoa(n) + " " + unit.name + "s"
		}
	}
	return strconv.Itoa(int(d/time.Second)) + " s"
}
