//go:build linux

package boot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Bounds of the module list; the largest known stand-in kernel needs about 40 modules.
const (
	maxModuleList = 64 << 10
	maxModules    = 512
)

// ParseModuleList reads the names of module files, one a line, in the order of
// loading. Empty lines and lines beginning with # are skipped. Names are
// relative and stay inside the archive's folder.
func ParseModuleList(r io.Reader) ([]string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxModuleList+1))
	if err != nil {
		return nil, fmt.Errorf("read module list: %w", err)
	}
	if len(raw) > maxModuleList {
		return nil, fmt.Errorf("module list is longer than %d bytes", maxModuleList)
	}
	var names []string
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		if !validModule(name) {
			return nil, fmt.Errorf("module list: bad name %q", name)
		}
		if names = append(names, name); len(names) > maxModules {
			return nil, fmt.Errorf("module list has more than %d names", maxModules)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("module list: %w", err)
	}
	return names, nil
}

func validModule(name string) bool {
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return false
	}
	base := path.Base(name)
	return strings.HasSuffix(base, ".ko") || strings.HasSuffix(base, ".ko.xz") ||
		strings.HasSuffix(base, ".ko.zst") || strings.HasSuffix(base, ".ko.gz")
}

// Modules loads the kernel's modules while the boot goes on: whoever needs one
// waits for it, and what nobody waits for is still loading when the machine is
// ready. Loading a stand-in kernel's costs a quarter of an emulated boot.
type Modules struct {
	folder *os.Root // survives the switch of the root

	mu     sync.Mutex
	loaded chan struct{} // closed and renewed after every module
	done   bool
	err    error
}

// OpenModules prepares loading from the folder.
func OpenModules(folder string) (*Modules, error) {
	m := &Modules{loaded: make(chan struct{})}
	root, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil // a kernel without modules
	}
	if err != nil {
		return nil, fmt.Errorf("open modules: %w", err)
	}
	m.folder = root
	return m, nil
}

// Load loads what the list in the folder names, in its order, and empties the
// folder, which is memory. Modules that are there already or that the machine
// has no hardware for (ENODEV) are fine. The first other failure ends it.
func (m *Modules) Load(list string) {
	err := m.load(list)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done, m.err = true, err
	close(m.loaded)
}

func (m *Modules) load(list string) error {
	if m.folder == nil {
		return nil
	}
	defer m.folder.Close()
	file, err := m.folder.Open(list)
	if err != nil {
		return fmt.Errorf("open module list: %w", err)
	}
	defer file.Close()
	names, err := ParseModuleList(file)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := m.loadOne(name); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
		m.mu.Lock()
		close(m.loaded)
		m.loaded = make(chan struct{})
		m.mu.Unlock()
	}
	return nil
}

func (m *Modules) loadOne(name string) error {
	file, err := m.folder.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	flags := 0
	if !strings.HasSuffix(name, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(file.Fd()), "", flags)
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return m.folder.Remove(name)
}

// Retry calls try until it does not fail with ENODEV any more, once after every
// module and a last time when all are loaded.
func (m *Modules) Retry(ctx context.Context, try func() error) error {
	for {
		m.mu.Lock()
		loaded, done, failure := m.loaded, m.done, m.err
		m.mu.Unlock()
		err := try()
		if done || !errors.Is(err, unix.ENODEV) {
			return errors.Join(err, missing(err, failure))
		}
		select {
		case <-loaded:
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// missing names a failed load as the reason only where something is missing.
func missing(err, failure error) error {
	if err == nil {
		return nil
	}
	return failure
}

// Err is why loading ended early; nil while it goes on.
func (m *Modules) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}
