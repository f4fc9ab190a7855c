package firecracker

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/process"
)

// BenchmarkStart measures how long Firecracker takes to listen to its API, in its
// cage and without one. No guest is started.
func BenchmarkStart(b *testing.B) {
	driver, kernel := realDriver(b)
	spec, _ := testSpec(b, "")
	spec.Kernel = kernel
	binary, err := driver.Binary()
	if err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B, spawn func(m *machine) *process.Child) {
		m, err := driver.newMachine(spec, binary, "", keptMachine{Token: testToken})
		if err != nil {
			b.Fatal(err)
		}
		defer m.clean()
		for b.Loop() {
			m.log.begin()
			child := spawn(m)
			select {
			case <-m.log.ready:
			case <-child.Done():
				b.Fatal(m.log.settle())
			}
			child.Kill()
			m.sweep()
		}
	}
	b.Run("caged", func(b *testing.B) {
		run(b, func(m *machine) *process.Child {
			handout, err := cage.NewHandout()
			if err != nil {
				b.Fatal(err)
			}
			defer handout.Close()
			child, tail, err := m.spawn(handout)
			if err != nil {
				b.Fatal(err)
			}
			m.tail = tail
			return child
		})
	})
	b.Run("bare", func(b *testing.B) {
		run(b, func(m *machine) *process.Child {
			child, err := process.StartBound(exec.Command(binary, "--api-sock", filepath.Join(m.dir, apiName),
				"--level", "Info", "--log-path", filepath.Join(m.dir, logName)))
			if err != nil {
				b.Fatal(err)
			}
			return child
		})
	})
}
