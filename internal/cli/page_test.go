package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
)

// pageWorld has a running sandbox of openclaw whose port is on 40001 here.
func pageWorld(t *testing.T) *fakeWorld {
	w := newWorld(t)
	w.app.Rand = rand.Reader
	w.app.AllPresets = func() ([]preset.Preset, error) {
		all := fakePresets()
		for i := range all {
			if all[i].Name == "openclaw" {
				all[i].Ports, all[i].Page = []int{18789}, &preset.Page{Port: 18789, Path: "/#token={token}", Token: []string{"say-token"}}
			}
		}
		return all, nil
	}
	w.add("other", sandbox.Running)
	w.clawed("claw", sandbox.Running)
	w.program = func(c supervise.Command, s supervise.Streams) (int, error) {
		if !c.Agent {
			return 1, nil
		}
		_, err := io.WriteString(s.Out, "t0k&n\n")
		return 0, err
	}
	return w
}

func (w *fakeWorld) clawed(name, state string) {
	w.add(name, state)
	s := w.boxes[name]
	s.Preset, s.Forwards = "openclaw", []port.Forward{{Host: 40001, Guest: 18789}}
	w.boxes[name] = s
}

func TestPageIsPrinted(t *testing.T) {
	const asked = "exec claw say-token user= dir= tty=false"
	for line, c := range map[string]want{
		"openclaw open --print":       {out: "http://127.0.0.1:40001/#token=t0k%26n\n", log: []string{asked}},
		"openclaw open --print claw":  {out: "http://127.0.0.1:40001/#token=t0k%26n\n", log: []string{asked}},
		"openclaw open --print other": {status: 2, errs: `sandbox "other" is one of claude-code, not of openclaw`},
		"openclaw open --print clow":  {status: 3, errs: "Did you mean claw?"},
		"openclaw open --print --json": {
			status: 2, out: "{\n  \"schema\": 1,\n  \"ok\": false,\n  \"data\": null,\n  \"error\": {\n    \"code\": \"usage\",\n    \"message\": \"--print and --json exclude each other\",\n    \"hint\": \"Give one of them.\"\n  }\n}\n",
		},
		"codex open": {status: 2, errs: "smolvm codex has no command \"open\""},
	} {
		pageWorld(t).run(t, line, c)
	}
	w := pageWorld(t)
	w.set("claw", sandbox.Stopped)
	w.run(t, "openclaw open", want{status: fault.NotRunning.Exit(), errs: "Start it: smolvm start claw"})
	w = pageWorld(t)
	w.clawed("second", sandbox.Running)
	w.run(t, "openclaw open", want{status: 2, errs: "Name one: claw, second"})
	w = pageWorld(t)
	delete(w.boxes, "claw")
	w.run(t, "openclaw open", want{status: 3, errs: "Make one: smolvm openclaw start"})
	w = pageWorld(t)
	s := w.boxes["claw"]
	s.Forwards = nil
	w.boxes["claw"] = s
	w.run(t, "openclaw open", want{status: fault.Conflict.Exit(), errs: "Forward it: smolvm port add claw 18789"})
	for _, bad := range []string{"", "two words", "a\x1bb"} {
		w = pageWorld(t)
		w.program = func(_ supervise.Command, s supervise.Streams) (int, error) {
			_, err := io.WriteString(s.Out, bad)
			return 0, err
		}
		if status := w.app.Main([]string{"openclaw", "open", "--print"}); status != fault.Conflict.Exit() || w.out.Len() > 0 {
			t.Errorf("token %q: status %d, printed %q", bad, status, &w.out)
		}
	}
}

// The browser gets the token, and no command line has it.
func TestPageIsHandedOver(t *testing.T) {
	w := pageWorld(t)
	dir := t.TempDir()
	script, browsed := filepath.Join(dir, "browser"), filepath.Join(dir, "browsed")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$1\" >"+browsed+".tmp; mv "+browsed+".tmp "+browsed+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.environ = map[string]string{"BROWSER": script}
	w.app.Environ = []string{"PATH=" + os.Getenv("PATH")}
	done := make(chan int)
	go func() { done <- w.app.Main([]string{"openclaw", "open"}) }()
	var given string
	for given == "" {
		select {
		case status := <-done:
			t.Fatalf("it ended before a browser came, with status %d: %s", status, &w.errs)
		default:
			text, _ := os.ReadFile(browsed)
			given = strings.TrimSpace(string(text))
		}
	}
	if strings.Contains(given, "t0k") || !strings.HasPrefix(given, "http://127.0.0.1:") {
		t.Errorf("the command line of the browser has %q", given)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	get := func(address string) string {
		answer, err := client.Get(address)
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		return fmt.Sprint(answer.StatusCode, " ", answer.Header.Get("Location"))
	}
	wrong := given[:strings.LastIndex(given, "/")] + "/favicon.ico"
	if got := get(wrong); got != "404 " {
		t.Errorf("another path answers %s", got)
	}
	if got, want := get(given), "303 http://127.0.0.1:40001/#token=t0k%26n"; got != want {
		t.Errorf("the browser gets %s, want %s", got, want)
	}
	if status := <-done; status != 0 {
		t.Errorf("status %d: %s", status, &w.errs)
	}
	if got := get(given); !strings.Contains(got, "refused") {
		t.Errorf("the door is still open: %s", got)
	}
}

// Whoever comes second is not let in, and nobody keeps others out by saying nothing.
func TestDoorOpensOnce(t *testing.T) {
	d, err := openDoor(context.Background(), rand.Reader, "http://127.0.0.1:9/")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	for _, want := range []int{http.StatusSeeOther, http.StatusNotFound} {
		answer, err := client.Get(d.address)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("status %d, want %d", answer.StatusCode, want)
		}
	}
	if err := d.wait(context.Background()); err != nil {
		t.Error(err)
	}
	d.close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	lonely, err := openDoor(context.Background(), rand.Reader, "http://127.0.0.1:9/")
	if err != nil {
		t.Fatal(err)
	}
	defer lonely.close()
	if lonely.wait(ctx) == nil {
		t.Error("nobody came, and that is no error")
	}
}
