package host

import (
	"strings"
	"testing"
	"testing/fstest"
)

const cpuinfo = `processor	: 0
vendor_id	: AuthenticAMD
cpu MHz		: 1500.012
microcode	: 0x1000065
flags		: fpu tsc constant_tsc nonstop_tsc
bogomips	: 5192.19

processor	: 1
microcode	: 0x2
bogomips	: 1.00
`

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		tsc      int64
	}{
		"as it is":         {"", "", 2596095},
		"stops when idle":  {"nonstop_tsc", "", 0},
		"changes clock":    {"constant_tsc", "", 0},
		"no bogomips":      {"bogomips", "bogo", 0},
		"broken":           {"5192.19", "fast", 0},
		"absurdly slow":    {"5192.19", "0.01", 0},
		"absurdly fast":    {"5192.19", "1e300", 0},
		"no number at all": {"5192.19", "NaN", 0},
	} {
		var i Info
		i.read(fstest.MapFS{
			"proc/cpuinfo":                   {Data: []byte(strings.Replace(cpuinfo, c.old, c.new, 1))},
			"proc/sys/kernel/random/boot_id": {Data: []byte("22fb1b1e\n")},
		})
		if i.TSCKHz != c.tsc || i.Microcode != "0x1000065" || i.BootID != "22fb1b1e" {
			t.Errorf("%s: %+v", name, i)
		}
	}
	var i Info
	if i.read(fstest.MapFS{}); i != (Info{}) {
		t.Errorf("nothing to read: %+v", i)
	}
}

func TestProbe(t *testing.T) {
	if i := Probe(); i.CPUs < 1 || i.MemoryMiB < 64 || i.OS == "" || i.Arch == "" {
		t.Errorf("%+v", i)
	}
}
