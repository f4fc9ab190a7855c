package sandbox_test

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
)

// firecrackerVariable names a folder with Firecracker and a kernel that KVM runs on
// this computer (docs/tests.md).
const firecrackerVariable = "SMOLVM_TEST_FIRECRACKER"

// firecrackerDriver is the driver of that folder.
func firecrackerDriver() (vmm.Driver, error) {
	dir := os.Getenv(firecrackerVariable)
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cpu, err := os.ReadFile(filepath.Join(dir, "cpu-config.json"))
	if err != nil {
		return nil, err
	}
	arguments, err := os.ReadFile(filepath.Join(dir, "arguments"))
	if err != nil {
		return nil, err
	}
	return firecracker.New(firecracker.Options{
		Runner: process.New(process.Options{
			Environ: os.Environ(), Self: self,
			Places: map[process.Tool]string{process.Firecracker: filepath.Join(dir, "firecracker")},
		}),
		Random: rand.Reader, CPU: json.RawMessage(cpu), Arguments: strings.TrimSpace(string(arguments)),
	}), nil
}
