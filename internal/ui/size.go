package ui

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
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

// maxSizeText bounds what ParseSize looks at.
const maxSizeText = 32

// ParseSize reads a size with its unit, as users of docker write it: 512M, 4G,
// 1.5GiB, 20gb; every unit counts in 1024s. A number without a unit is refused,
// because half of such tools read it as bytes and half as MiB.
func ParseSize(text string) (bytes int64, err error) {
	digits := strings.TrimRight(text, "bBiIkKmMgGtT ")
	unit := strings.ToLower(strings.TrimSpace(text[len(digits):]))
	power, known := map[string]uint{
		"b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20,
		"g": 30, "gb": 30, "gib": 30, "t": 40, "tb": 40, "tib": 40,
	}[unit]
	switch {
	case len(text) > maxSizeText || !decimal(digits):
		return 0, fmt.Errorf("%.32q is not a size such as 512M or 4G", text)
	case unit == "":
		return 0, fmt.Errorf("size %q has no unit: write %sM or %sG", text, digits, digits)
	case !known:
		return 0, fmt.Errorf("size %q has the unknown unit %q: use K, M, G or T", text, unit)
	}
	value, _ := new(big.Rat).SetString(digits)
	value.Mul(value, new(big.Rat).SetInt64(1<<power))
	whole := new(big.Int).Quo(value.Num(), value.Denom())
	if !whole.IsInt64() {
		return 0, fmt.Errorf("size %q is too large", text)
	}
	return whole.Int64(), nil
}

// decimal reports whether text is digits with at most one point between them.
func decimal(text string) bool {
	whole, fraction, pointed := strings.Cut(text, ".")
	return allDigits(whole) && (!pointed || allDigits(fraction))
}

func allDigits(text string) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return text != ""
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
