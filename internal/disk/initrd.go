package disk

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/fsimg/cpio"
	"github.com/smolvm/smolvm/internal/wire"
)

// initrdTree is what the initial RAM file system holds besides the agent: mount
// points, and the console that the kernel opens before it starts the agent.
func initrdTree(agent, authority []byte) []cpio.Entry {
	tree := []cpio.Entry{
		{Name: "dev", Mode: cpio.Directory | 0o755},
		{Name: "dev/console", Mode: cpio.CharDev | 0o600, Major: 5, Minor: 1},
		{Name: "proc", Mode: cpio.Directory | 0o755},
		{Name: "sys", Mode: cpio.Directory | 0o755},
		{Name: "run", Mode: cpio.Directory | 0o755},
		{Name: "init", Mode: cpio.Regular | 0o755, Data: agent},
	}
	if len(authority) > 0 {
		tree = append(tree, cpio.Entry{Name: strings.TrimPrefix(wire.AuthorityFile, "/"), Mode: cpio.Regular | 0o644, Data: authority})
	}
	return tree
}

// Initrd writes a sandbox's initial RAM file system to dst: the guest agent as
// /init, followed by the kernel's module archive (a cpio archive, plain or in a
// compression the kernel knows) when modulesPath is not empty. Authority is a
// certificate in PEM that the guest trusts until the next start; nil: none. It is not synced
// to disk: it is derived from other files and cheap to make again, so make it
// at every start.
func Initrd(dst string, agent []byte, modulesPath string, authority []byte) error {
	need := initrdSize(agent, modulesPath)
	if err := requireSpace(filepath.Dir(dst), need); err != nil {
		return err
	}
	err := create(dst, func(f *os.File) error {
		if err := cpio.Write(f, initrdTree(agent, authority)); err != nil {
			return err
		}
		if modulesPath == "" {
			return nil
		}
		return appendFile(f, modulesPath)
	})
	return explain(err, "initial RAM file system", dst, need)
}

// initrdSize is about how many bytes an initrd takes.
func initrdSize(agent []byte, modulesPath string) int64 {
	size := int64(len(agent)) + 4096
	if modulesPath == "" {
		return size
	}
	if info, err := os.Stat(modulesPath); err == nil { // else opening it says why
		size += info.Size()
	}
	return size
}
