package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// typewriter gives what is typed, as it is typed.
type typewriter chan string

func (k typewriter) Read(p []byte) (int, error) {
	text, ok := <-k
	if !ok {
		return 0, io.EOF
	}
	return copy(p, text), nil
}

// display is a screen that can be waited for.
type display struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (d *display) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case d.more <- struct{}{}:
	default:
	}
	return d.text.Write(p)
}

// await waits until the screen shows something.
func (d *display) await(t *testing.T, part string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		d.mu.Lock()
		shown := d.text.String()
		d.mu.Unlock()
		if strings.Contains(shown, part) {
			return
		}
		select {
		case <-d.more:
		case <-late:
			t.Fatalf("the screen never showed %q: %q", part, shown)
		}
	}
}

// loginWorld has a browser that notes what it is given.
func loginWorld(t *testing.T) (w *fakeWorld, browsed string) {
	t.Helper()
	w = newWorld(t)
	dir := t.TempDir()
	browsed = filepath.Join(dir, "browsed")
	script := filepath.Join(dir, "browser")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >"+browsed+".new && mv "+browsed+".new "+browsed+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.environ = map[string]string{"BROWSER": script}
	w.app.Environ = []string{"PATH=" + os.Getenv("PATH")}
	return w, browsed
}

// browseFor runs f while a program of the sandbox is in front of the user, who may not
// have seen all addresses then.
func (w *fakeWorld) browseFor(t *testing.T, typed typewriter, screen *display, f func(open func(string))) (unseen []string) {
	t.Helper()
	streams := supervise.Streams{}
	aside := ui.NewAside(typed, screen, func() wire.Size { return wire.Size{Columns: 80, Rows: 24} }, time.Now)
	stop := w.app.browse(context.Background(), fakeSession{w, "box"}, &streams, aside)
	var group sync.WaitGroup
	group.Go(func() { _, _ = io.Copy(io.Discard, aside) })
	ended := make(chan struct{})
	group.Go(func() {
		for {
			select {
			case <-streams.Resize:
			case <-ended:
				return
			}
		}
	})
	f(streams.Opening)
	unseen = stop()
	close(ended)
	close(typed)
	group.Wait()
	return unseen
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func awaitFile(t *testing.T, path string) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if raw, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(raw))
		}
	}
	t.Fatalf("%s never came", path)
	return ""
}

// A login whose answer comes to a port: after a yes the browser opens the address,
// and what it sends to the port reaches the sandbox's.
func TestLoginWithCallback(t *testing.T) {
	w, browsed := loginWorld(t)
	guest := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(out, "logged in with %s", r.URL.Query().Get("code"))
	}))
	defer guest.Close()
	port := freePort(t)
	w.loopback = map[int]string{port: guest.Listener.Addr().String()}
	address := fmt.Sprintf("https://login.example/authorize?redirect_uri=http%%3A%%2F%%2Flocalhost%%3A%d%%2Fcallback", port)
	typed, screen := make(typewriter), &display{more: make(chan struct{}, 1)}
	w.browseFor(t, typed, screen, func(open func(string)) {
		open(address)
		screen.await(t, "Open it? [y/N]")
		screen.await(t, fmt.Sprintf("port %d", port))
		time.Sleep(1100 * time.Millisecond) // keys that come sooner were meant for the program
		typed <- "y"
		if got := awaitFile(t, browsed); got != address {
			t.Errorf("the browser was given %q", got)
		}
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/callback?code=xyz", port))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if text, _ := io.ReadAll(answer.Body); string(text) != "logged in with xyz" {
			t.Errorf("the sandbox answered %q", text)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		t.Error("the port is still forwarded when the program has ended")
	}
}

// Without a yes nothing is opened and no port is listened on.
func TestLoginRefused(t *testing.T) {
	w, browsed := loginWorld(t)
	port := freePort(t)
	typed, screen := make(typewriter), &display{more: make(chan struct{}, 1)}
	unseen := w.browseFor(t, typed, screen, func(open func(string)) {
		open(fmt.Sprintf("https://login.example/?redirect_uri=http://localhost:%d/", port))
		screen.await(t, "Open it? [y/N]")
		time.Sleep(1100 * time.Millisecond)
		typed <- "n"
		screen.await(t, "\x1b8")
		if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			t.Error("the port is forwarded")
		}
	})
	if _, err := os.Stat(browsed); err == nil {
		t.Error("the browser was started")
	}
	if len(unseen) != 0 {
		t.Errorf("%q was answered and is told to be unseen", unseen)
	}
}

// A program may end as soon as it has asked, before its user could read that.
func TestAddressesOfAProgramThatEnds(t *testing.T) {
	w, _ := loginWorld(t)
	all := []string{"https://login.example/1", "https://login.example/2"}
	for n := 1; n <= len(all); n++ {
		typed, screen := make(typewriter), &display{more: make(chan struct{}, 1)}
		unseen := w.browseFor(t, typed, screen, func(open func(string)) {
			open(all[0])
			if n == 2 {
				screen.await(t, "Open it? [y/N]") // the second one waits
				open(all[1])
			}
		})
		if !slices.Equal(unseen, all[:n]) {
			t.Errorf("of %q it says that nobody has seen %q", all[:n], unseen)
		}
	}
}

// Without a terminal an address is shown, and that is all.
func TestAddressWithoutTerminal(t *testing.T) {
	w, browsed := loginWorld(t)
	w.add("box", "running")
	w.program = func(_ supervise.Command, streams supervise.Streams) (int, error) {
		streams.Opening("https://login.example/device?code=AB-CD")
		return 0, nil
	}
	if status := w.app.Main([]string{"exec", "box", "true"}); status != 0 {
		t.Fatal(w.errs.String())
	}
	if !strings.Contains(w.errs.String(), "https://login.example/device?code=AB-CD") {
		t.Errorf("it is not shown: %s", w.errs.String())
	}
	if _, err := os.Stat(browsed); err == nil {
		t.Error("the browser was started")
	}
}
