package imagebuild

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
)

func shippedBase(t *testing.T) Base {
	t.Helper()
	b, err := ReadBase(images.Files())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestShippedBaseHasWhatPresetsNeed(t *testing.T) {
	b := shippedBase(t)
	for _, p := range []string{"git", "ripgrep", "curl", "less", "procps", "jq", "openssh-client", "ca-certificates", "sudo", "python3", "e2fsprogs"} {
		if !strings.Contains(" "+strings.Join(b.Packages, " ")+" ", " "+p+" ") {
			t.Errorf("package %s is missing", p)
		}
	}
	for _, l := range b.Recipe.Locks {
		if _, err := readLock(b.Name, l); err != nil {
			t.Error(err)
		}
	}
	if strings.Contains(b.Kernel.CommandLine, "smolvm.") {
		t.Error("the kernel's command line sets what the host decides")
	}
}

func TestShippedPresetsInstallWhatTheyPin(t *testing.T) {
	presets, err := config.Presets(images.Files())
	if err != nil {
		t.Fatal(err)
	}
	if len(presets) != 6 {
		t.Errorf("%d presets, want 6", len(presets))
	}
	for _, p := range presets {
		pinned := false
		for _, s := range p.Recipe.Steps {
			pinned = pinned || strings.Contains(s.Run, "@"+p.Agent.Version) || strings.Contains(s.Run, `":"`+p.Agent.Version+`"}`) || strings.Contains(s.Run, "=="+p.Agent.Version)
		}
		if !pinned {
			t.Errorf("%s: no step installs version %s", p.Name, p.Agent.Version)
		}
	}
}

func TestBadBase(t *testing.T) {
	for name, change := range map[string]func(*Base){
		"not locked":        func(b *Base) { b.Locks["arm64"] = b.Locks["arm64"][1:] },
		"no packages":       func(b *Base) { b.Packages = nil },
		"option as package": func(b *Base) { b.Packages = []string{"--hook=rm"} },
		"suite is a path":   func(b *Base) { b.Suite = "../trixie" },
		"no epoch":          func(b *Base) { b.Epoch = 0 },
		"unpinned wheel":    func(b *Base) { b.Wheels[0].Version = ">=1" },
		"no digest": func(b *Base) {
			b.Wheels[0].Platforms = map[string]Platform{"amd64": {Tag: "any"}, "arm64": {Tag: "any"}}
		},
		"one architecture": func(b *Base) { b.Wheels[0].Platforms = map[string]Platform{"amd64": b.Wheels[0].Platforms["amd64"]} },
		"relative path":    func(b *Base) { b.Wheels[0].Paths[0].To = "usr/bin/node" },
		"climbing path":    func(b *Base) { b.Wheels[0].Paths[0].To = "/usr/../../node" },
		"file to folder":   func(b *Base) { b.Wheels[0].Paths[0].To = "/usr/bin/" },
		"no kernel":        func(b *Base) { b.Kernel.Packages = nil },
		"link nowhere":     func(b *Base) { b.Wheels[0].Links[0].Target = "" },
	} {
		t.Run(name, func(t *testing.T) {
			b := shippedBase(t)
			b.Packages = append(b.Packages, b.Locks["arm64"][0].Name)
			change(&b)
			if err := b.Validate(); fault.CodeOf(err) != fault.Usage {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestUnknownFieldInBase(t *testing.T) {
	_, err := ReadBase(fstest.MapFS{images.BaseFile: {Data: []byte("name = \"base\"\nmirror = \"x\"\n")}})
	if err == nil || !strings.Contains(err.Error(), "mirror") {
		t.Errorf("error %v", err)
	}
}
