package record

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
)

func TestEnvironmentIsKeptBesideTheRecord(t *testing.T) {
	book, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := book.Environment("box"); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("of no sandbox: %v", err)
	}
	lock, err := book.Create("box")
	if err != nil {
		t.Fatal(err)
	}
	if all, err := book.Environment("box"); err != nil || len(all) > 0 {
		t.Errorf("a new sandbox has %q, %v", all, err)
	}
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			if _, err := book.ChangeEnvironment("box", func(all []string) []string {
				return append(all, fmt.Sprintf("V%d=a b\n\"c\"", i))
			}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	all, err := book.Environment("box")
	slices.Sort(all)
	if err != nil || len(slices.Compact(all)) != 20 || all[0] != "V0=a b\n\"c\"" {
		t.Errorf("of 20 changes at once are left %q, %v", all, err)
	}
	path := book.Folder("box").Environment()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("its file: %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := book.Environment("box"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged file: %v", err)
	}
	if err := lock.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the variables outlive the sandbox")
	}
}
