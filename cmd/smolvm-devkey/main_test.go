package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/internal/trust"
)

func TestEnsureMakesOneUsableKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dist", "dev")
	var group sync.WaitGroup
	keys := make([]string, 8)
	for i := range keys {
		group.Go(func() {
			var err error
			if keys[i], err = ensure(dir, rand.Reader); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, k := range keys {
		if k != keys[0] || strings.ContainsAny(k, " \n") {
			t.Errorf("keys differ or have spaces: %q and %q", k, keys[0])
		}
	}
	private, err := os.ReadFile(filepath.Join(dir, privateFile))
	if err != nil {
		t.Fatal(err)
	}
	signature, id, err := trust.Sign([]byte("text"), string(private))
	if err != nil {
		t.Fatal(err)
	}
	policy := trust.Policy{Roots: []trust.Root{{Keys: []string{keys[0]}, Threshold: 1}}, Development: true}
	if _, err := policy.Verify([]byte("text"), map[string][]byte{id: signature}); err != nil {
		t.Errorf("the public half does not verify: %v", err)
	}
	policy.Development = false
	if _, err := policy.Verify([]byte("text"), map[string][]byte{id: signature}); err == nil {
		t.Error("a release believes it")
	}
}

func TestPrivateHalfIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	if _, err := ensure(dir, rand.Reader); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, privateFile))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".dev-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestUnreadableKeyIsNotReplaced(t *testing.T) {
	dir := t.TempDir() // exists, without a key in it
	if _, err := ensure(dir, rand.Reader); err == nil {
		t.Error("a folder without a key was taken")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("wrote %v", left)
	}
}
