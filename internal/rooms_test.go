// Package internal_test reads the source tree and holds the rooms to their rules:
// who may import whom, where a third-party module lives, and who may start
// programs, speak HTTP, or read the environment. Every file counts, whatever its
// build constraints; tests are free.
package internal_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/smolvm/smolvm/"

// levels of the rooms: imports go to lower levels only.
var levels = map[int][]string{
	1: {"preset", "manifest", "fault", "event", "wire", "egress", "redact", "spdx", "port"},
	2: {
		"trust", "host", "fetch", "fetch/oci", "unpack", "store", "disk", "seed", "fsimg/fat", "fsimg/cpio", "fsimg/ext4", "vmm", "vmm/qemu", "vmm/firecracker", "cage", "cgroup",
		"guestlink", "sshx", "process", "record", "config", "embedded", "login", "share", "netstack", "treecopy", "carry", "forward", "escrow", "sparse",
	},
	3: {"resolve", "acquire", "release", "sandbox", "supervise", "imagebuild", "doctor"},
	4: {"cli", "ui"},
}

// beside are the imports within a level.
var beside = map[string][]string{
	"seed":     {"fsimg/fat"},
	"disk":     {"process", "fsimg/cpio"},
	"vmm/qemu": {"vmm", "process", "cage"},
	"cage":     {"process"},

	"vmm/firecracker": {"vmm", "process", "cage", "sparse"},

	"store": {"sparse"},

	"host":       {"process"},
	"forward":    {"carry", "host"},
	"sandbox":    {"supervise"},
	"acquire":    {"resolve"},
	"release":    {"resolve", "acquire"},
	"fetch":      {"fetch/oci"},
	"imagebuild": {"sandbox", "supervise", "resolve", "acquire"},
	"cli":        {"ui"},
}

// support are packages that only tests import, besides those whose name ends in "test".
var support = []string{"vmm/fake", "vmm/conformance", "vmm/firecracker/apitest"}

// homes are the rooms a third-party module may be imported in; guest code is
// named by its folder. A module ending in / stands for all below it.
var homes = map[string][]string{
	"aead.dev/minisign":                      {"trust"},
	"github.com/charmbracelet":               {"guest"},
	"github.com/gofrs/flock":                 {"config", "record", "store"},
	"github.com/google/renameio/v2":          {"record", "store"},
	"github.com/google/go-containerregistry": {"fetch/oci"},
	"github.com/hashicorp/yamux":             {"guestlink", "guest"},
	"github.com/klauspost/compress":          {"unpack"},
	"github.com/pelletier/go-toml":           {"config"},
	"github.com/pkg/sftp":                    {"guest"},
	"github.com/spf13":                       {"cli"},
	"github.com/ulikunitz/xz":                {"imagebuild"},
	"golang.org/x/crypto/ssh":                {"sshx", "guest"},
	"golang.org/x/mod":                       {"manifest", "resolve"},
	"golang.org/x/sync":                      nil, // anywhere above level 1
	"golang.org/x/sys":                       nil,
	"golang.org/x/term":                      {"ui"},
	"gvisor.dev/gvisor":                      {"netstack"},
}

// limited are packages of the standard library with few importers.
var limited = map[string][]string{
	"os/exec":  {"process", "guest"},
	"net/http": {"fetch", "fetch/oci", "imagebuild", "escrow", "vmm/firecracker"}, // the last only reads answers on a Unix socket
}

// environment are the functions of os that read the environment.
var environment = []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}

// file is one source file of a room, parsed.
type file struct {
	path    string // below the module, with slashes
	room    string // "guest" for all of internal/guest
	imports []string
	tree    *ast.File
}

func TestImportsGoDownward(t *testing.T) {
	for _, f := range sources(t, "internal") {
		for _, name := range f.imports {
			target, ours := strings.CutPrefix(name, module+"internal/")
			if !ours {
				continue
			}
			if err := allowed(f.room, roomOf(target)); err != nil {
				t.Errorf("%s imports %s: %v", f.path, name, err)
			}
		}
	}
}

func TestEveryRoomHasALevel(t *testing.T) {
	for _, f := range sources(t, "internal") {
		if f.room != "guest" && !supporting(f.room) && level(f.room) == 0 {
			t.Errorf("%s: room %q has no level", f.path, f.room)
		}
	}
}

func TestThirdPartyModulesStayAtHome(t *testing.T) {
	for _, f := range sources(t, "internal") {
		for _, name := range f.imports {
			if !strings.Contains(strings.Split(name, "/")[0], ".") || strings.HasPrefix(name, module) {
				continue
			}
			if err := athome(f.room, name); err != nil {
				t.Errorf("%s: %v", f.path, err)
			}
		}
	}
}

func TestLimitedPackages(t *testing.T) {
	for _, f := range sources(t, "internal") {
		for _, name := range f.imports {
			rooms, ok := limited[name]
			if ok && !slices.Contains(rooms, f.room) && !supporting(f.room) {
				t.Errorf("%s imports %s, which only %v may", f.path, name, rooms)
			}
		}
	}
}

func TestOnlyConfigAndCommandsReadTheEnvironment(t *testing.T) {
	for _, f := range sources(t, "internal") {
		if f.room == "config" || f.room == "guest" || supporting(f.room) {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if from, ok := call.X.(*ast.Ident); ok && from.Name == "os" && slices.Contains(environment, call.Sel.Name) {
				t.Errorf("%s reads the environment with os.%s", f.path, call.Sel.Name)
			}
			return true
		})
	}
}

// TestRulesRefuse shows that the rules can fail.
func TestRulesRefuse(t *testing.T) {
	for _, c := range [][2]string{
		{"trust", "resolve"},
		{"fetch", "config"},
		{"store", "record"},
		{"seed", "sshx"},
		{"wire", "fault"},
		{"sandbox", "cli"},
		{"resolve", "acquire"},
		{"guest", "fault"},
		{"cli", "guest"},
		{"vmm/qemu", "vmm/fake"},
		{"ui", "cli"},
	} {
		if allowed(c[0], c[1]) == nil {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
	for _, c := range [][2]string{
		{"cli", "golang.org/x/crypto/ssh"},
		{"fetch", "github.com/klauspost/compress/zstd"},
		{"wire", "golang.org/x/sys/unix"},
		{"config", "gopkg.in/yaml.v3"},
	} {
		if athome(c[0], c[1]) == nil {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
}

func TestNoInitFunctions(t *testing.T) {
	for _, f := range slices.Concat(sources(t, "internal"), sources(t, "cmd")) {
		for _, d := range f.tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", f.path)
			}
		}
	}
}

// allowed says why a room must not import another.
func allowed(from, to string) error {
	switch {
	case from == to, supporting(from):
		return nil
	case supporting(to):
		return fmt.Errorf("%s is for tests", to)
	case from == "guest":
		if to != "wire" && to != "treecopy" && to != "carry" { // which import nothing, and are a protocol's two ends
			return fmt.Errorf("the guest shares only wire, treecopy and carry with the host")
		}
		return nil
	case to == "guest":
		return fmt.Errorf("the host shares only wire with the guest")
	case slices.Contains(beside[from], to):
		return nil
	case level(from) <= level(to):
		return fmt.Errorf("%s (level %d) is not below %s (level %d)", to, level(to), from, level(from))
	}
	return nil
}

// athome says why a room must not import a third-party package.
func athome(room, name string) error {
	for mod, rooms := range homes {
		if name != mod && !strings.HasPrefix(name, mod+"/") {
			continue
		}
		if rooms == nil && level(room) != 1 || slices.Contains(rooms, room) || supporting(room) {
			return nil
		}
		return fmt.Errorf("%s lives in %v", name, rooms)
	}
	return fmt.Errorf("%s has no home; see docs/decisions", name)
}

func level(room string) int {
	for n, rooms := range levels {
		if slices.Contains(rooms, room) {
			return n
		}
	}
	return 0
}

func supporting(room string) bool {
	return strings.HasSuffix(room, "test") || slices.ContainsFunc(support, func(s string) bool { return room == s || strings.HasPrefix(room, s+"/") })
}

// roomOf names the room of a package below internal.
func roomOf(pkg string) string {
	if pkg == "guest" || strings.HasPrefix(pkg, "guest/") {
		return "guest"
	}
	return pkg
}

// sources parses the non-test files below a folder of the module.
func sources(t *testing.T, below string) []file {
	t.Helper()
	root := filepath.Join("..", below)
	var files []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		f, err := parse(name)
		if err == nil {
			files = append(files, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no sources below %s", root)
	}
	return files
}

func parse(name string) (file, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return file{}, err
	}
	tree, err := parser.ParseFile(token.NewFileSet(), name, raw, 0)
	if err != nil {
		return file{}, err
	}
	rel := filepath.ToSlash(strings.TrimPrefix(name, ".."+string(filepath.Separator)))
	f := file{path: rel, tree: tree, room: roomOf(strings.TrimPrefix(path.Dir(rel), "internal/"))}
	for _, spec := range tree.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file{}, err
		}
		f.imports = append(f.imports, target)
	}
	return f, nil
}
