//go:build linux

package boot

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/wire"
)

func TestParseCommandLine(t *testing.T) {
	for line, want := range map[string]Options{
		"":                    {Mode: wire.ModeRun},
		"console=ttyS0 quiet": {Mode: wire.ModeRun},
		"smolvm.mode=build smolvm.drives=layer0,layer1,scratch,seed quiet\n": {
			Mode: wire.ModeBuild, Drives: []string{"layer0", "layer1", "scratch", "seed"},
		},
		"smolvm.mode=pack smolvm.epoch=1700000000 smolvm.drives=scratch,extra0": {
			Mode: wire.ModePack, Drives: []string{"scratch", "extra0"}, Epoch: time.Unix(1700000000, 0),
		},
	} {
		got, err := ParseCommandLine(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", line, diff)
		}
	}
}

func TestParseCommandLineRefuses(t *testing.T) {
	for _, line := range []string{
		"smolvm.mode=", "smolvm.mode=live", "smolvm.mode",
		"smolvm.drives=", "smolvm.drives=layer0,,seed", "smolvm.drives=seed,seed", "smolvm.drives=vda",
		"smolvm.drives=layer", "smolvm.drives=layer-1", "smolvm.drives=layer00", "smolvm.drives=layer99",
		"smolvm.drives=../x", "smolvm.drives=" + strings.Repeat("layer0,", 40) + "seed",
		"smolvm.epoch=", "smolvm.epoch=-1", "smolvm.epoch=soon", "smolvm.epoch=99999999999999",
	} {
		if got, err := ParseCommandLine(line); err == nil {
			t.Errorf("%q: accepted as %+v", line, got)
		}
	}
}

func TestLayers(t *testing.T) {
	options := Options{Drives: []string{"scratch", "layer1", "layer0", "layer3"}}
	if diff := cmp.Diff([]string{"layer0", "layer1"}, options.Layers()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if options.Has(wire.SeedRole) || !options.Has(wire.ScratchRole) {
		t.Error("Has is wrong")
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add("smolvm.mode=run smolvm.drives=layer0,scratch,seed smolvm.epoch=1")
	f.Add("smolvm.drives=layer0,layer0")
	f.Fuzz(func(t *testing.T, line string) {
		options, err := ParseCommandLine(line)
		if err != nil {
			return
		}
		if len(options.Drives) > maxRoles || len(options.Layers()) > len(options.Drives) {
			t.Errorf("bounds broken: %+v", options)
		}
		for _, role := range options.Drives {
			if !validRole(role) {
				t.Errorf("bad role %q accepted", role)
			}
		}
	})
}
