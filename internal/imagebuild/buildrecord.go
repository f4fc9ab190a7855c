package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/process"
)

// record starts the build record of a step.
func (b *Builder) record(ctx context.Context, s Step, arch string) Record {
	return Record{
		Kind: s.Kind, Name: s.Name, Arch: arch, Key: s.Key, Built: b.now().UTC().Truncate(time.Second),
		Revision: b.revision, Tools: b.tools(ctx, s.Kind, arch),
	}
}

// tools are the host's programs that have a part in a step. One that does not tell
// its version is left out: the step itself says when it is missing.
func (b *Builder) tools(ctx context.Context, kind, arch string) []Tool {
	machine := process.QEMUx86
	if arch == "arm64" {
		machine = process.QEMUArm
	}
	used := map[string][]process.Tool{
		kindKernel: {process.Mmdebstrap, process.DpkgDeb},
		kindBase:   {process.Mmdebstrap, process.DpkgDeb, process.Pip, machine},
		kindLayer:  {machine},
	}
	var tools []Tool
	for _, tool := range used[kind] {
		if version := b.version(ctx, tool); version != "" {
			tools = append(tools, Tool{string(tool), version})
		}
	}
	return tools
}

// version is what a program says of its own; empty where it says nothing.
func (b *Builder) version(ctx context.Context, tool process.Tool) string {
	out, err := process.Output(b.run.Command(ctx, tool, "--version"))
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return shortened(string(line))
}

// steps are the build records of an image, from the kernel up, with the lock files
// of its recipe, which are part of the layer's key and so never another's.
func (i Image) steps() []Record {
	layer := i.Layer.Record
	layer.Inputs = slices.Concat(layer.Inputs, lockInputs(i.Preset.Recipe.Locks))
	return []Record{i.Kernel.Record, i.Base.Record, layer}
}

func lockInputs(locks []preset.Lock) []Input {
	var inputs []Input
	for _, l := range locks {
		inputs = append(inputs, Input{Name: l.File, SHA256: l.SHA256})
	}
	return inputs
}

// recordFile is the build record's name in a result's folder.
const recordFile = "record.json"

func readRecord(dir string) (Record, error) {
	var r Record
	raw, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read the build record in %s: %w", dir, err)
	}
	return r, nil
}

func writeRecord(dir string, r Record) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, recordFile), append(raw, '\n'), 0o644)
}

// input describes a downloaded file for the build record.
func input(name, version, path string) (Input, error) {
	f, err := os.Open(path)
	if err != nil {
		return Input{}, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	return Input{Name: name, Version: version, SHA256: hex.EncodeToString(sum.Sum(nil)), Size: size}, err
}
