package imagebuild

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"

	"github.com/smolvm/smolvm/internal/process"
)

// maxModule bounds one decompressed kernel module, in bytes.
const maxModule = 64 << 20

// module is one loadable kernel module, decompressed.
type module struct {
	name string // as modprobe knows it, dashes written as underscores
	data []byte
}

// distroKernel is a kernel image and the modules taken from its package.
type distroKernel struct {
	release  string // uname -r
	image    []byte
	modules  []module        // in the order of loading
	packages map[string]bool // it was taken from
}

// modulePath finds release and module name in a path of the package.
var modulePath = regexp.MustCompile(`^/(?:usr/)?lib/modules/([^/]+)/kernel/(?:.*/)?([^/]+)\.ko(\.xz)?$`)

// readKernel takes the kernel and the named modules, with all those depend on,
// out of the one package among debs that holds a kernel image.
func readKernel(ctx context.Context, run *process.Runner, debs []*deb, names []string) (distroKernel, error) {
	k := distroKernel{packages: map[string]bool{}}
	files := moduleFiles{compressed: map[string]packed{}, builtin: map[string]bool{}}
	for _, d := range debs {
		if !strings.HasPrefix(d.name, "linux-image-") {
			continue
		}
		if err := d.find(ctx, run, wantKernelFile, func(name string, r io.Reader) error {
			return k.take(name, r, files)
		}); err != nil {
			return k, err
		}
		k.packages[d.name] = true
	}
	if k.image == nil || k.release == "" {
		return k, fmt.Errorf("no kernel image in the downloaded packages")
	}
	plain, isBzImage, err := vmlinux(k.image)
	if err != nil {
		return k, err
	}
	if isBzImage {
		k.image = plain
	}
	k.modules, err = files.order(names)
	return k, err
}

func wantKernelFile(name string) bool {
	return strings.HasPrefix(name, "/boot/vmlinuz-") || modulePath.MatchString(name) || path.Base(name) == "modules.builtin"
}

func (k *distroKernel) take(name string, r io.Reader, files moduleFiles) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	release, isImage := strings.CutPrefix(name, "/boot/vmlinuz-")
	switch m := modulePath.FindStringSubmatch(name); {
	case isImage && k.image != nil:
		return fmt.Errorf("a second kernel image, %s", name)
	case isImage:
		k.image, k.release = data, release
	case m != nil:
		files.compressed[moduleName(m[2])] = packed{data: data, xz: m[3] != ""}
	default:
		for line := range strings.Lines(string(data)) {
			files.builtin[moduleName(strings.TrimSuffix(path.Base(strings.TrimSpace(line)), ".ko"))] = true
		}
	}
	return nil
}

// moduleName is the one spelling of a module's name.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// moduleFiles are all modules of a kernel package.
type moduleFiles struct {
	compressed map[string]packed
	builtin    map[string]bool // part of the kernel image
}

type packed struct {
	data []byte
	xz   bool
}

// order decompresses the named modules and what they depend on, dependencies
// first. modules.dep is not used: no depmod has run on an extracted package.
func (f moduleFiles) order(names []string) ([]module, error) {
	var list []module
	state := map[string]int{} // 1: being visited, 2: in the list
	var visit func(name string, required bool) error
	visit = func(name string, required bool) error {
		name = moduleName(name)
		p, there := f.compressed[name]
		switch {
		case state[name] == 2 || !there && (f.builtin[name] || !required):
			return nil
		case !there:
			return fmt.Errorf("kernel module %s is neither in the package nor built in", name)
		case state[name] == 1:
			return fmt.Errorf("kernel module %s depends on itself", name)
		}
		state[name] = 1
		data, err := p.decompress()
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		info, err := readModuleInfo(data)
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		for _, d := range info.depends {
			if err := visit(d, true); err != nil {
				return err
			}
		}
		for _, d := range info.before {
			if err := visit(d, false); err != nil {
				return err
			}
		}
		state[name] = 2
		list = append(list, module{name: name, data: data})
		return nil
	}
	for _, n := range names {
		if err := visit(n, true); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (p packed) decompress() ([]byte, error) {
	if !p.xz {
		return p.data, nil
	}
	r, err := xz.NewReader(bytes.NewReader(p.data))
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("more than %d bytes", maxModule)
	}
	return data, err
}

// moduleInfo is what a module says about its order of loading.
type moduleInfo struct {
	depends []string // must be loaded first
	before  []string // should be loaded first, where they exist
}

// readModuleInfo reads the .modinfo section of a module.
func readModuleInfo(data []byte) (moduleInfo, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return moduleInfo{}, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return moduleInfo{}, fmt.Errorf("no section .modinfo")
	}
	raw, err := section.Data()
	if err != nil {
		return moduleInfo{}, err
	}
	return parseModuleInfo(raw), nil
}

// parseModuleInfo reads "key=value" strings, each ended by NUL.
func parseModuleInfo(raw []byte) moduleInfo {
	var info moduleInfo
	for entry := range bytes.SplitSeq(raw, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "depends":
			info.depends = append(info.depends, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			info.before = append(info.before, softBefore(value)...)
		}
	}
	return info
}

// softBefore gives the names after "pre:" of a softdep, up to "post:".
func softBefore(value string) []string {
	words := strings.Fields(value)
	from := slices.Index(words, "pre:")
	if from < 0 {
		return nil
	}
	words = words[from+1:]
	if to := slices.Index(words, "post:"); to >= 0 {
		words = words[:to]
	}
	return words
}
