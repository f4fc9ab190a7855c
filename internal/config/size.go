package config

import (
	"math/bits"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// shifts are the units of sizes. All count in 1024s, as everywhere in
// virtualization: 2G of memory are 2048 MiB.
var shifts = map[string]uint{
	"b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20,
	"g": 30, "gb": 30, "gib": 30, "t": 40, "tb": 40, "tib": 40,
}

// ParseSize reads a size as --memory and --disk take it: a whole number and a
// unit, such as 512MiB, 2G or 4096m, in bytes. A number without a unit is
// refused: some tools take it for bytes and some for megabytes.
func ParseSize(text string) (int64, error) {
	const hint = "Write a number and a unit, such as 512M, 4G or 1T."
	word := strings.TrimSpace(text)
	digits := len(word) - len(strings.TrimLeft(word, "0123456789"))
	number, unit := word[:digits], strings.ToLower(strings.TrimSpace(word[digits:]))
	shift, ok := shifts[unit]
	switch {
	case number == "":
		return 0, fault.New(fault.Usage, hint, "size %.40q is not a whole number with a unit", text)
	case unit == "":
		return 0, fault.New(fault.Usage, hint, "size %.40q has no unit", text)
	case !ok:
		return 0, fault.New(fault.Usage, hint, "size %.40q has an unknown unit", text)
	}
	value, err := strconv.ParseUint(number, 10, 63)
	if err != nil || bits.Len64(value)+int(shift) > 63 {
		return 0, fault.New(fault.Usage, hint, "size %.40q is too large", text)
	}
	return int64(value) << shift, nil
}
