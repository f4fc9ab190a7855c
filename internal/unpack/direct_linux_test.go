package unpack

import (
	"os"
	"path/filepath"
	"testing"
)

// Messages about a direct write name the file, not the descriptor it was opened by.
func TestDirectFileHasItsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "content")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	direct := openDirect(file)
	if direct == nil {
		t.Skip("this file system has no direct writes")
	}
	defer direct.Close()
	if direct.Name() != path {
		t.Errorf("it is called %s", direct.Name())
	}
}
