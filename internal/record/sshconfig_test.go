package record

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

func lines(names []string) string { return strings.Join(names, "\n") + "\n" }

func keptAt(t *testing.T, home string) string {
	t.Helper()
	data, err := os.ReadFile(SSHConfig(home))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSSHConfigFollowsNames(t *testing.T) {
	home := t.TempDir()
	book, err := Open(home)
	if err != nil {
		t.Fatal(err)
	}
	if err := book.KeepSSHConfig(lines); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(SSHConfig(home)); err == nil {
		t.Error("a home without sandboxes got a file")
	}
	lock, err := book.Create("one")
	if err != nil {
		t.Fatal(err)
	}
	keep := func(want string) {
		t.Helper()
		if err := book.KeepSSHConfig(lines); err != nil {
			t.Fatal(err)
		}
		if got := keptAt(t, home); got != want {
			t.Errorf("the file says %q, want %q", got, want)
		}
	}
	keep("one\n")
	if info, _ := os.Stat(SSHConfig(home)); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: ssh refuses a file that others may write", info.Mode())
	}
	before, _ := os.Stat(SSHConfig(home))
	keep("one\n")
	if after, _ := os.Stat(SSHConfig(home)); !os.SameFile(before, after) {
		t.Error("a file that was right was replaced")
	}
	if err := lock.Remove(); err != nil {
		t.Fatal(err)
	}
	keep("\n")
}

// Whoever writes last knows all names: of many that create at once, none is lost.
func TestSSHConfigOfManyAtOnce(t *testing.T) {
	home := t.TempDir()
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			book, err := Open(home)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := book.Create(fmt.Sprintf("box-%02d", i)); err != nil {
				t.Error(err)
			}
			if err := book.KeepSSHConfig(lines); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := strings.Count(keptAt(t, home), "box-"); got != 20 {
		t.Errorf("the file has %d of 20 sandboxes", got)
	}
}
