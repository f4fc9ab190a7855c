//go:build linux

package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

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
	return names, lines.Err()
}

func validModule(name string) bool {
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return false
	}
	base := path.Base(name)
	return strings.HasSuffix(base, ".ko") || strings.HasSuffix(base, ".ko.xz") ||
		strings.HasSuffix(base, ".ko.zst") || strings.HasSuffix(base, ".ko.gz")
}

// LoadModules loads the modules that the list in the folder names. A kernel
// without modules has no list. Modules the machine has no hardware for
// (ENODEV) and those already there are fine.
func LoadModules(folder, list string) error {
	file, err := os.Open(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open module list: %w", err)
	}
	defer file.Close()
	names, err := ParseModuleList(file)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := loadModule(filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(file string) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open module %s: %w", file, err)
	}
	defer unix.Close(fd)
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(fd, "", flags)
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("load module %s: %w", file, err)
	}
	return nil
}
