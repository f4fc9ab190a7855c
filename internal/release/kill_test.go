package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
)

// childEnv makes this test program load its standard input into a home: the
// folder, a line feed, the trusted key.
const childEnv = "SMOLVM_TEST_LOAD"

func loadUntilKilled(role string) int {
	dir, key, _ := strings.Cut(role, "\n")
	st, err := store.Open(dir)
	if err == nil {
		_, err = Load(context.Background(), st, os.Stdin, LoadOptions{
			Options: Options{Sink: event.Discard{}, Now: time.Now},
			Rules: func(string) (resolve.Rules, error) {
				return resolve.Rules{
					Policy:  trust.Policy{Roots: []trust.Root{{Keys: []string{key}, Threshold: 1}}, Development: true, Now: time.Now()},
					Memory:  trust.NewMemory(filepath.Join(dir, "trust"), time.Now),
					Version: "0.3.0",
				}, nil
			},
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKilledLoad: kill -9 anywhere on the way, then once more without it. There
// is nothing or everything to be seen, and the second load needs no help.
func TestKilledLoad(t *testing.T) {
	whole := saved(t)
	for n := range 24 {
		size := len(whole) * n / 20
		pause := time.Duration(0)
		if size > len(whole) { // all is read: killed while it is adopted
			pause = time.Duration(size-len(whole)) * time.Millisecond / 4000
			size = len(whole)
		}
		t.Run(fmt.Sprintf("%d+%v", size, pause), func(t *testing.T) {
			t.Parallel()
			killed(t, whole, size, pause)
		})
	}
}

func killed(t *testing.T, whole []byte, size int, pause time.Duration) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "home")
	killAfter(t, dir, whole[:size], pause)
	h := homeAt(t, dir)
	images, err := h.store.Images()
	check(t, err)
	if len(images) > 0 {
		h.isComplete(t, h.catalogue(t, publisher(t).Address))
	}
	_, err = h.load(t.Context(), bytes.NewReader(whole))
	check(t, err)
	h.isComplete(t, h.catalogue(t, publisher(t).Address))
	for _, name := range []string{"partial", "tmp", "leases"} {
		empty(t, filepath.Join(dir, "store", name))
	}
}

// killAfter starts a load, gives it these bytes, waits, and kills it.
func killAfter(t *testing.T, dir string, data []byte, pause time.Duration) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+dir+"\n"+publisher(t).PublicKey)
	in, err := child.StdinPipe()
	check(t, err)
	check(t, child.Start())
	_, err = io.Copy(in, bytes.NewReader(data))
	check(t, err)
	if pause > 0 {
		check(t, in.Close())
		time.Sleep(pause)
	}
	check(t, child.Process.Kill())
	_ = child.Wait() // killed
}
