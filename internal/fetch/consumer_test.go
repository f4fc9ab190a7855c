package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/test/faulty"
)

// noise is bytes that repeat nowhere.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{'n'}).Read(data)
	return data
}

// publish makes a faulty server of one file and gives the address of its folder's manifest.
func publish(t *testing.T, file string, data []byte) (*faulty.Server, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
		t.Fatal(err)
	}
	server := faulty.New(dir)
	address, stop := server.Listen()
	t.Cleanup(stop)
	return server, address + "/manifest.json"
}

// impatient is a source whose waits are over at once and whose floor is reached soon.
func impatient() *Source {
	return New(Options{Stall: 400 * time.Millisecond, Wait: noWait, Jitter: func() float64 { return 0 }})
}

// told keeps the texts of events.
type told struct {
	mu    sync.Mutex
	texts []string
}

func (l *told) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts = append(l.texts, string(e.Kind)+" "+e.Text)
}

func (l *told) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%q", l.texts)
}

// download is the loop of a consumer that keeps what it got, as acquire does.
func download(ctx context.Context, m *Mirrors, file string, span Span, buffer []byte) ([]byte, error) {
	got := []byte{}
	for {
		stream, err := m.Open(ctx, file, Span{span.From + int64(len(got)), span.To})
		if err != nil {
			return got, err
		}
		skip := span.From + int64(len(got)) - stream.From
		if _, err = io.CopyN(io.Discard, stream, skip); err == nil {
			got, err = fill(got, stream, span, buffer)
		}
		stream.Close()
		if err == nil || ctx.Err() != nil {
			return got, err
		}
	}
}

func fill(got []byte, stream io.Reader, span Span, buffer []byte) ([]byte, error) {
	for span.To <= 0 || int64(len(got)) < span.To-span.From {
		n, err := stream.Read(buffer)
		got = append(got, buffer[:n]...)
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
	return got[:span.To-span.From], nil // a place without ranges sends more
}

func get(t *testing.T, m *Mirrors, file string, span Span, want []byte) {
	t.Helper()
	got, err := download(t.Context(), m, file, span, make([]byte, 16<<10))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v of %s: %d bytes, equal %v, %v", span, file, len(got), bytes.Equal(got, want), err)
	}
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
