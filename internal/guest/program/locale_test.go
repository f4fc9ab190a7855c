//go:build linux

package program

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKeepLocales(t *testing.T) {
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "de_DE.utf8"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ env, want map[string]string }{
		"installed": {
			map[string]string{"LANG": "de_DE.UTF-8", "LC_TIME": "C.UTF-8", "LANGUAGE": "de"},
			map[string]string{"LANG": "de_DE.UTF-8", "LC_TIME": "C.UTF-8", "LANGUAGE": "de"},
		},
		"not installed": {
			map[string]string{"LANG": "fr_FR.UTF-8", "LC_TIME": "fr_FR.UTF-8", "LANGUAGE": "fr", "X": "1"},
			map[string]string{"LANG": "C.UTF-8", "X": "1"},
		},
		"path tricks": {
			map[string]string{"LANG": "../locale/de_DE.utf8"}, map[string]string{"LANG": "C.UTF-8"},
		},
		"none": {map[string]string{}, map[string]string{"LANG": "C.UTF-8"}},
	} {
		keepLocales(c.env, folder)
		if diff := cmp.Diff(c.want, c.env); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
