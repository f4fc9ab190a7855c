package imagebuild

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func moduleNames(list []module) []string {
	var names []string
	for _, m := range list {
		names = append(names, m.name)
	}
	return names
}

func TestModulesInOrderOfDependency(t *testing.T) {
	files := moduleFiles{builtin: map[string]bool{"ext4": true}, compressed: map[string]packed{}}
	for name, info := range map[string]string{
		"virtio_net":   "name=virtio_net\x00depends=net_failover\x00license=GPL\x00",
		"net_failover": "depends=failover\x00softdep=pre: hash missing post: late\x00",
		"failover":     "depends=\x00",
		"hash":         "",
		"late":         "",
		"nls_iso_1":    "depends=ext4",
	} {
		files.compressed[name] = packed{data: []byte(fakeModule(t, info)), xz: true}
	}
	list, err := files.order([]string{"ext4", "virtio-net", "nls-iso-1", "failover"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"failover", "hash", "net_failover", "virtio_net", "nls_iso_1"}
	if diff := cmp.Diff(want, moduleNames(list)); diff != "" {
		t.Error(diff)
	}
}

func TestModulesThatCannotBeLoaded(t *testing.T) {
	mod := func(info string) packed { return packed{data: []byte(fakeModule(t, info)), xz: true} }
	for name, c := range map[string]struct {
		files map[string]packed
		want  string
	}{
		"not there":          {map[string]packed{}, "neither in the package nor built in"},
		"dependency missing": {map[string]packed{"a": mod("depends=b")}, "b is neither"},
		"circle":             {map[string]packed{"a": mod("depends=b"), "b": mod("depends=a")}, "depends on itself"},
		"not a module":       {map[string]packed{"a": {data: []byte("text")}}, "module a"},
		"not compressed":     {map[string]packed{"a": {data: []byte("text"), xz: true}}, "module a"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := moduleFiles{compressed: c.files}.order([]string{"a"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestKernelOutOfAPackage(t *testing.T) {
	run, packages := fakeTools(t)
	mod := "./usr/lib/modules/6.12.1-demo/"
	fakeDeb(t, packages, "linux-image-6.12.1-demo",
		tarOf(t, member{name: "control", data: "Package: linux-image-6.12.1-demo\nVersion: 6\nArchitecture: amd64\n"}),
		tarOf(t, member{name: "./boot/vmlinuz-6.12.1-demo", data: "MZ kernel"},
			member{name: "./boot/System.map-6.12.1-demo", data: "map"},
			member{name: mod + "modules.builtin", data: "kernel/fs/ext4/ext4.ko\n"},
			member{name: mod + "kernel/drivers/virtio/virtio_mmio.ko.xz", data: fakeModule(t, "depends=")},
			member{name: mod + "kernel/drivers/other.ko.xz", data: "not read"}))
	dir := t.TempDir()
	if err := fetchPackages(t.Context(), run, "stable", "amd64", []string{"linux-image-demo"}, dir); err != nil {
		t.Fatal(err)
	}
	debs, err := readPackages(t.Context(), run, dir)
	if err != nil {
		t.Fatal(err)
	}
	k, err := readKernel(t.Context(), run, debs, []string{"virtio_mmio", "ext4"})
	if err != nil {
		t.Fatal(err)
	}
	if k.release != "6.12.1-demo" || string(k.image) != "MZ kernel" || !cmp.Equal(moduleNames(k.modules), []string{"virtio_mmio"}) {
		t.Errorf("release %q, image %q, modules %v", k.release, k.image, moduleNames(k.modules))
	}
	if _, err := readKernel(t.Context(), run, nil, nil); err == nil {
		t.Error("no package, and nothing was said")
	}
}

func TestFailedDownloadSaysWhy(t *testing.T) {
	run, _ := fakeTools(t)
	err := fetchPackages(t.Context(), run, "stable", "amd64", []string{"fails"}, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "no such package") {
		t.Errorf("error %v", err)
	}
}

func FuzzModuleInfo(f *testing.F) {
	f.Add([]byte("depends=a,b\x00softdep=pre: c post: d\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, name := range parseModuleInfo(raw).depends {
			if name == "" || strings.Contains(name, ",") {
				t.Errorf("name %q", name)
			}
		}
	})
}
