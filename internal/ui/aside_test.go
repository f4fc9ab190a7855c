package ui

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// typed is a terminal's keyboard.
type typed struct{ keys chan string }

func (k typed) Read(p []byte) (int, error) {
	text, ok := <-k.keys
	if !ok {
		return 0, io.EOF
	}
	return copy(p, text), nil
}

func TestAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen bytes.Buffer
		keyboard := typed{make(chan string)}
		a := NewAside(keyboard, &screen, func() wire.Size { return wire.Size{Columns: 40, Rows: 10} }, time.Now)
		var mu sync.Mutex
		var program strings.Builder
		var group sync.WaitGroup
		group.Go(func() {
			buf := make([]byte, 16)
			for {
				n, err := a.Read(buf)
				if err != nil {
					return
				}
				mu.Lock()
				program.Write(buf[:n])
				mu.Unlock()
			}
		})
		got := func() string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return program.String()
		}
		keyboard.keys <- "abc"
		if got() != "abc" {
			t.Errorf("the program gets %q", got())
		}
		for _, c := range []struct {
			keys []string
			want bool
		}{{[]string{"y"}, true}, {[]string{"n"}, false}, {[]string{"x", "Y"}, true}, {[]string{"\r"}, false}, {nil, false}} {
			screen.Reset()
			answer := make(chan bool, 1)
			group.Go(func() { answer <- a.Confirm("open "+strings.Repeat("x", 90), "Open it?", nil) })
			synctest.Wait()
			keyboard.keys <- "y" // meant for the program
			time.Sleep(asideDeaf)
			for _, key := range c.keys {
				keyboard.keys <- key
				synctest.Wait()
			}
			if got := <-answer; got != c.want {
				t.Errorf("%q: %v", c.keys, got)
			}
			_, _ = a.Write([]byte("OUTPUT"))
			shown := screen.String()
			if !strings.Contains(shown, "Open it? [y/N]") || strings.Index(shown, "OUTPUT") < strings.Index(shown, "\x1b8") {
				t.Errorf("the screen got %q", shown)
			}
		}
		if got() != "abc" {
			t.Errorf("keys of the question went to the program: %q", got())
		}
		done := make(chan struct{})
		close(done)
		if a.Confirm("x", "y?", done) {
			t.Error("an ended session says yes")
		}
		close(keyboard.keys)
		group.Wait()
	})
}

func TestAsideShowsNoEscapes(t *testing.T) {
	var screen bytes.Buffer
	a := NewAside(strings.NewReader(""), &screen, func() wire.Size { return wire.Size{Columns: 30, Rows: 5} }, time.Now)
	a.Say("see \x1b]0;title\x07 " + strings.Repeat("long ", 100))
	if strings.Contains(screen.String(), "\x1b]") || strings.Count(screen.String(), "\n") > 4 {
		t.Errorf("the screen got %q", screen.String())
	}
}
