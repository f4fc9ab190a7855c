package process

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLibraries(t *testing.T) {
	libraries, err := Libraries(t.Context(), "/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if len(libraries) < 2 || !slices.ContainsFunc(libraries, func(p string) bool { return strings.Contains(filepath.Base(p), "libc.") }) {
		t.Errorf("/bin/sh needs %q", libraries)
	}
	for _, path := range libraries {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	script := filepath.Join(folder(t, "", "script"), "script")
	if _, err := Libraries(t.Context(), script); err == nil {
		t.Error("a script has libraries")
	}
}

func TestListed(t *testing.T) {
	const text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibz.so.1 => /lib/libz.so.1 (0x00007f)\n\t/lib64/ld.so (0x0)\n\tlibgone.so => not found\n"
	if got := listed(text); !slices.Equal(got, []string{"/lib/libz.so.1", "/lib64/ld.so"}) {
		t.Errorf("listed %q", got)
	}
}
