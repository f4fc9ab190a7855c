package qemu

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// BenchmarkStart is the time from nothing to a QEMU that answers, with a cage around
// it and without. SMOLVM_BENCH_SELF names the smolvm whose stage builds the cage; else
// it is this program, which is smaller. The processor time of all that was started
// says more than the time that passed where other programs keep the computer busy.
func BenchmarkStart(b *testing.B) {
	self := os.Getenv("SMOLVM_BENCH_SELF")
	if self == "" {
		self = os.Args[0]
	}
	image := loop(b)
	for name, self := range map[string]string{"caged": self, "uncaged": ""} {
		b.Run(name, func(b *testing.B) {
			runner := process.New(process.Options{Environ: os.Environ(), Self: self})
			if err := cage.Try(b.Context(), runner); err != nil && self != "" {
				b.Skip(err)
			}
			d := New(runner, Host{OS: "linux", Arch: "amd64"})
			before := childrenTime(b)
			for b.Loop() {
				m, err := d.Start(b.Context(), dull(image))
				if err != nil {
					b.Fatal(err)
				}
				if caged, why := m.(vmm.Confined).Confinement(); caged != (self != "") {
					b.Fatalf("caged %v: %v", caged, why)
				}
				b.StopTimer()
				_ = m.Kill()
				b.StartTimer()
			}
			b.ReportMetric(float64((childrenTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// childrenTime is the processor time of programs that have ended.
func childrenTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
