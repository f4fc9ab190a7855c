package imagebuild

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/wire"
)

// guardSession runs the guard as a sandbox would: until a word comes.
type guardSession struct {
	words chan string
	lost  error // the sandbox is gone at once
}

func (g guardSession) Exec(_ context.Context, _ wire.Start, in io.Reader, _, _ io.Writer) (int, error) {
	if g.lost != nil {
		return 0, g.lost
	}
	word := make([]byte, 16)
	n, err := in.Read(word)
	g.words <- strings.TrimSpace(string(word[:n]))
	return 0, err
}

func TestGuardIsToldOfTheEnd(t *testing.T) {
	failed := errors.New("recipe failed")
	for _, want := range []error{nil, failed} {
		g := guardSession{words: make(chan string, 1)}
		if err := guarded(t.Context(), g, func(context.Context, Session) error { return want }); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
		if word := <-g.words; word != "done" {
			t.Errorf("the guard was told %q", word)
		}
	}
}

func TestLostSandboxEndsTheWork(t *testing.T) {
	lost := errors.New("the machine ended")
	err := guarded(t.Context(), guardSession{lost: lost}, func(context.Context, Session) error { return nil })
	if !errors.Is(err, lost) {
		t.Errorf("error %v", err)
	}
}
