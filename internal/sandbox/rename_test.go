package sandbox_test

import (
	"os"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// TestRename renames a sandbox that runs, then the same one stopped. A connection
// from before goes on, and the name that is given up is free at once.
func TestRename(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	before, err := b.m.Connect(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	done := before.Done()

	if err := b.m.Rename(t.Context(), "one", "two"); err != nil {
		t.Fatal(err)
	}
	b.wantState("two", sandbox.Running)
	if out, status := b.exec("two", "hello", "cat"); out != "hello" || status != 0 {
		t.Errorf("exec under the new name: %q, %d", out, status)
	}
	select {
	case <-done:
		t.Error("a connection from before was cut")
	default:
	}
	known, err := os.ReadFile(b.book.Folder("two").KnownHosts())
	if err != nil || !strings.HasPrefix(string(known), "two ") || strings.Contains(string(known), "one") {
		t.Errorf("known_hosts holds %q, %v", known, err)
	}
	b.create("one")
	wantFault(t, b.m.Rename(t.Context(), "two", "one"), fault.Conflict, `already a sandbox "one"`)
	wantFault(t, b.m.Rename(t.Context(), "two", "-"), fault.Usage)
	wantFault(t, b.m.Rename(t.Context(), "four", "five"), fault.NotFound)

	if err := b.m.Stop(t.Context(), "two", 0); err != nil {
		t.Fatal(err)
	}
	if err := b.m.Rename(t.Context(), "two", "three"); err != nil {
		t.Fatal(err)
	}
	if r := b.start("three"); r.Name != "three" {
		t.Errorf("started %q", r.Name)
	}
	wantFault(t, b.m.Rename(t.Context(), "two", "four"), fault.NotFound)
}
