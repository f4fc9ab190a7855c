//go:build linux

package sshd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/wire"
)

// patience bounds what a test waits for.
const patience = 10 * time.Second

// watcher is a client of a kept session: what it was sent, and how that ended.
type watcher struct {
	conn    *ssh.Client
	channel ssh.Channel
	over    chan struct{}

	mu     sync.Mutex
	change sync.Cond
	seen   []byte
	said   string // on standard error
	status int    // -1: none yet
	closed bool
}

// open makes a client of a kept session with a terminal of its own.
func (w *world) open(t *testing.T, size wire.Size, start wire.Start) *watcher {
	t.Helper()
	start.Keep = true
	conn := w.connect(t)
	channel, requests, err := conn.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &watcher{conn: conn, channel: channel, status: -1, over: make(chan struct{})}
	c.change.L = &c.mu
	var parts sync.WaitGroup
	parts.Go(func() { c.follow(channel, func(p []byte) { c.seen = append(c.seen, p...) }) })
	parts.Go(func() { c.follow(channel.Stderr(), func(p []byte) { c.said += string(p) }) })
	parts.Go(func() { c.answers(requests) })
	go func() { parts.Wait(); c.close(); close(c.over) }()
	payload, err := json.Marshal(start)
	if err != nil {
		t.Fatal(err)
	}
	before := len(w.server.keeper.list())
	terminal := ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{"xterm", uint32(size.Columns), uint32(size.Rows), 0, 0, "\x00"})
	for _, request := range []struct {
		name    string
		payload []byte
	}{{"pty-req", terminal}, {wire.RequestStart, payload}} {
		if ok, err := channel.SendRequest(request.name, true, request.payload); !ok || err != nil {
			t.Fatalf("%s: %v, %v", request.name, ok, err)
		}
	}
	if start.New { // which happens after the answer
		w.sessions(t, "one more", func(all []wire.KeptSession) bool {
			select {
			case <-c.over:
				return true
			default:
				return len(all) > before
			}
		})
	}
	return c
}

func (c *watcher) follow(from io.Reader, take func([]byte)) {
	chunk := make([]byte, 4096)
	for {
		n, err := from.Read(chunk)
		c.mu.Lock()
		take(chunk[:n])
		c.change.Broadcast()
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *watcher) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.change.Broadcast()
}

func (c *watcher) answers(requests <-chan *ssh.Request) {
	for request := range requests {
		var m struct{ Status uint32 }
		if request.Type == "exit-status" && ssh.Unmarshal(request.Payload, &m) == nil {
			c.mu.Lock()
			c.status = int(m.Status)
			c.mu.Unlock()
		}
	}
}

// until waits until what was seen matches, and forgets what was seen up to then.
func (c *watcher) until(t *testing.T, expression string) string {
	t.Helper()
	pattern := regexp.MustCompile(expression)
	timer := time.AfterFunc(patience, c.close)
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		c.seen = c.seen[max(0, len(c.seen)-16<<10):]
		if at := pattern.FindIndex(c.seen); at != nil {
			seen := string(c.seen[:at[1]])
			c.seen = c.seen[at[1]:]
			return seen
		}
		if c.closed {
			t.Fatalf("no %q; it shows %q, said %q", expression, c.seen[max(0, len(c.seen)-300):], c.said)
		}
		c.change.Wait()
	}
}

func (c *watcher) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c.channel, text); err != nil {
		t.Fatal(err)
	}
}

// end waits for the end of the program, as this client is told it.
func (c *watcher) end(t *testing.T) int {
	t.Helper()
	select {
	case <-c.over:
	case <-time.After(patience):
		t.Fatalf("it does not end; it shows %q", c.seen)
	}
	return c.status
}

// leave goes away without a word.
func (c *watcher) leave() {
	c.conn.Close()
	<-c.over
}

// sessions waits until the list is as wanted.
func (w *world) sessions(t *testing.T, what string, ok func([]wire.KeptSession) bool) []wire.KeptSession {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		all := w.server.keeper.list()
		if ok(all) {
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s: %+v", what, all)
		}
	}
}

// A title is told when the program has set it, whether somebody watches or not.
func TestTitlesAreTold(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	titles := make(chan string, 100)
	go w.server.Tell(ctx, func(all []wire.KeptSession) {
		for _, s := range all {
			titles <- s.Title
		}
	})
	left := filepath.Join(w.home, "left")
	c := w.open(t, usual, shell(`printf '\033]0;✳ first\007'; until [ -e `+left+` ]; do sleep 0.01; done; printf '\033]0;✳ second\007'; read line`))
	awaits := func(want string) {
		t.Helper()
		late := time.After(patience)
		for got := ""; got != want; {
			select {
			case got = <-titles:
			case <-late:
				t.Fatalf("the title %q is not told", want)
			}
		}
	}
	awaits("✳ first")
	c.leave()
	if err := os.WriteFile(left, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	awaits("✳ second")
	w.open(t, usual, wire.Start{Session: "1"}).say(t, "\r")
	w.settled(t)
}

// settled waits for the end of all sessions of a test.
func (w *world) settled(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	go func() { w.server.keeper.group.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("sessions still run")
	}
}

var usual = wire.Size{Columns: 80, Rows: 24}

func shell(line string) wire.Start {
	return wire.Start{New: true, Argv: []string{"sh", "-c", line}}
}

func watchedBy(n int) func([]wire.KeptSession) bool {
	return func(all []wire.KeptSession) bool { return len(all) == 1 && all[0].Clients == n }
}

func TestSessionOutlivesItsClient(t *testing.T) {
	w := newWorld(t)
	first := w.open(t, usual, shell(`echo begun; read x; echo "got $x"; read y; exit 7`))
	first.until(t, "begun")
	first.leave()
	w.sessions(t, "unwatched", watchedBy(0))
	second := w.open(t, usual, wire.Start{Session: "1"})
	second.until(t, "begun") // the screen
	second.say(t, "hello\r")
	second.until(t, "got hello")
	second.say(t, "\r")
	if got := second.end(t); got != 7 {
		t.Errorf("status %d", got)
	}
	w.sessions(t, "empty", func(all []wire.KeptSession) bool { return len(all) == 0 })
	w.settled(t)
}

func TestFullScreenProgramIsRedrawn(t *testing.T) {
	w := newWorld(t)
	first := w.open(t, usual, shell(`stty raw -echo; trap 'printf "\033[7;7Hwinch"' WINCH; printf 'main\033[?1049h\033[2J\033[5;10Hpicture\033[?25l\033[?2004h'; while :; do sleep 600 & wait; done`))
	first.until(t, "2004h")
	first.leave()
	second := w.open(t, usual, wire.Start{Session: "1"})
	seen := second.until(t, "winch") // it was told to draw itself
	for _, want := range []string{"main", "\x1b[?1049h", "\x1b[5;1H\x1b[K         picture", "\x1b[?2004h"} {
		if !strings.Contains(seen, want) {
			t.Errorf("%q lacks %q", seen, want)
		}
	}
	w.kill(t, "1")
	second.end(t)
	w.settled(t)
}

// kill ends a session's program.
func (w *world) kill(t *testing.T, name string) {
	t.Helper()
	s, err := w.server.keeper.find(name)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.process.SignalGroup(9)
}

func TestTwoWatchOneSession(t *testing.T) {
	w := newWorld(t)
	large, less := wire.Size{Columns: 100, Rows: 30}, wire.Size{Columns: 60, Rows: 40}
	sizes := `trap 'stty size' WINCH; stty size; echo ready; while :; do read x && echo "heard $x"; [ "$x" = end ] && exit 3; done`
	a := w.open(t, large, shell(sizes))
	a.until(t, "ready")
	b := w.open(t, less, wire.Start{Session: "1"})
	a.until(t, "30 60") // the smallest of both
	b.until(t, "30 60")
	b.say(t, "from b\r")
	a.until(t, "heard from b")
	a.say(t, "from a\r")
	b.until(t, "heard from a")
	w.sessions(t, "watched by two", watchedBy(2))
	b.leave()
	a.until(t, "30 100")
	c := w.open(t, large, wire.Start{Session: "1"})
	c.until(t, "heard from a")
	if ok, err := c.channel.SendRequest("window-change", true, ssh.Marshal(struct{ Columns, Rows, Width, Height uint32 }{90, 25, 0, 0})); !ok || err != nil {
		t.Fatalf("window change: %v, %v", ok, err)
	}
	a.until(t, "25 90")
	c.say(t, "end\r")
	if a.end(t) != 3 || c.end(t) != 3 {
		t.Errorf("statuses %d and %d", a.status, c.status)
	}
	w.settled(t)
}

// A client that does not read holds the program up only while it is alone.
func TestAStuckClientHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	stuck, err := w.connect(t).NewSession() // nobody reads its output
	if err != nil {
		t.Fatal(err)
	}
	if err := stuck.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 70)
	payload, _ := json.Marshal(wire.Start{Keep: true, New: true, Argv: []string{"sh", "-c", `read go; yes ` + line + ` | head -c 8000000; echo; echo all; read x; exit 5`}})
	if ok, err := stuck.SendRequest(wire.RequestStart, true, payload); !ok || err != nil {
		t.Fatal(ok, err)
	}
	w.sessions(t, "there", watchedBy(1))
	other := w.open(t, usual, wire.Start{Session: "1"})
	other.say(t, "\r")
	other.until(t, `x\r\nall`)
	w.sessions(t, "watched by both", watchedBy(2))
	other.leave()
	last := w.open(t, usual, wire.Start{Session: "1"})
	last.until(t, "all")
	last.say(t, "\r")
	if got := last.end(t); got != 5 {
		t.Errorf("status %d", got)
	}
	stuck.Close()
	w.settled(t)
}

func TestUnseenEndIsKeptOnce(t *testing.T) {
	w := newWorld(t)
	go_ := filepath.Join(w.home, "go")
	c := w.open(t, usual, shell(`printf 'working\033[?1049h\033[2Hresult'; until [ -e `+go_+` ]; do sleep 0.02; done; printf ' 42'; exit 9`))
	c.until(t, "result")
	c.leave()
	if err := os.WriteFile(go_, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all := w.sessions(t, "ended", func(all []wire.KeptSession) bool { return len(all) == 1 && all[0].Status != nil })
	if *all[0].Status != 9 {
		t.Errorf("status %d", *all[0].Status)
	}
	w.settled(t)
	c = w.open(t, usual, wire.Start{Session: "1"})
	c.until(t, "result 42\r\n")
	if got := c.end(t); got != 9 {
		t.Errorf("status %d", got)
	}
	if c = w.open(t, usual, wire.Start{Session: "1"}); c.end(t) != 126 || !strings.Contains(c.said, `no session "1"`) {
		t.Errorf("once more: status %d, %q", c.status, c.said)
	}
}

func TestUnseenEndsAreBounded(t *testing.T) {
	w := newWorld(t)
	for range maxEnded + 3 {
		c := w.open(t, usual, shell("read x"))
		c.say(t, "") // it has begun
		c.leave()
	}
	running := w.sessions(t, "unwatched", func(all []wire.KeptSession) bool {
		for _, s := range all {
			if s.Clients > 0 {
				return false
			}
		}
		return len(all) == maxEnded+3
	})
	for _, s := range running {
		w.kill(t, s.Name)
	}
	w.settled(t)
	w.sessions(t, "bounded", func(all []wire.KeptSession) bool { return len(all) == maxEnded })
}

// What a program asks its terminal is answered while nobody watches, and only then.
func TestTerminalAnswersInTheClientsAbsence(t *testing.T) {
	w := newWorld(t)
	line := `stty raw -echo; printf 'a\033[6n'; head -c 6 | od -c | head -1; read x; printf 'b\033[6n'; head -c 6 | od -c | head -1; sleep 9`
	c := w.open(t, usual, shell(`sleep 0.3; `+line))
	c.leave()
	w.sessions(t, "unwatched", watchedBy(0))
	s, err := w.server.keeper.find("1")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		s.screen.Draw()
		shown := string(s.screen.Last())
		s.mu.Unlock()
		if regexp.MustCompile(`033   \[   1   ;   2   R`).MatchString(shown) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer: %q", shown)
		}
	}
	c = w.open(t, usual, wire.Start{Session: "1"})
	c.say(t, "\n")
	c.until(t, `\x1b\[6n`)
	c.say(t, "MYSELF")
	c.until(t, `M   Y   S   E   L   F`)
	w.kill(t, "1")
	c.end(t)
	w.settled(t)
}

func TestNamesOfSessions(t *testing.T) {
	w := newWorld(t)
	sleep := func(name string) *watcher {
		start := shell("read x")
		start.Session = name
		return w.open(t, usual, start)
	}
	a, b, c := sleep(""), sleep("mine"), sleep("")
	w.sessions(t, "three", func(all []wire.KeptSession) bool {
		return len(all) == 3 && all[0].Name == "1" && all[1].Name == "mine" && all[2].Name == "2" && all[0].Command == "sh -c read x"
	})
	for _, name := range []string{"mine", "a/b", strings.Repeat("x", 33)} {
		if refused := sleep(name); refused.end(t) != 126 || refused.said == "" {
			t.Errorf("%q: status %d, %q", name, refused.status, refused.said)
		}
	}
	refused := w.open(t, usual, wire.Start{New: true, Argv: []string{"nonesuch"}})
	if refused.end(t) != 127 || !strings.HasSuffix(refused.said, "not found\r\n") { // the terminal is raw
		t.Errorf("no such program: %d", refused.status)
	}
	for _, c := range []*watcher{a, b, c} {
		c.say(t, "\r")
		if got := c.end(t); got != 0 {
			t.Errorf("status %d", got)
		}
	}
	w.settled(t)
}

func TestKeepNeedsATerminal(t *testing.T) {
	got := newWorld(t).start(t, wire.Start{Keep: true, New: true, Argv: []string{"true"}})
	if got.Status != 126 || !strings.Contains(got.Err, "terminal") {
		t.Errorf("%+v", got)
	}
}

// Bytes come through exactly, whatever pieces the terminal gives them in.
func TestKeptOutputIsExact(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.home, "output")
	var output []byte
	for i := range 20000 {
		output = append(output, fmt.Sprintf("\x1b[3%dmline %d é日\x1b[0m\x1b]0;t%d\a\r\n", i%8, i, i)...)
	}
	if err := os.WriteFile(file, output, 0o600); err != nil {
		t.Fatal(err)
	}
	c := w.open(t, usual, shell("stty raw; cat "+file))
	if got := c.end(t); got != 0 || !bytes.Equal(c.seen, output) {
		t.Errorf("status %d, %d bytes of %d, equal: %v", got, len(c.seen), len(output), bytes.Equal(c.seen, output))
	}
	w.settled(t)
}

func TestSignalsReachAKeptSession(t *testing.T) {
	w := newWorld(t)
	c := w.open(t, usual, shell(`trap 'kill $!; exit 6' TERM; echo ready; sleep 600 & wait`))
	c.until(t, "ready")
	// No answer is asked for: the channel may end before one comes.
	if _, err := c.channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{"TERM"})); err != nil {
		t.Fatal(err)
	}
	if got := c.end(t); got != 6 {
		t.Errorf("status %d", got)
	}
	w.settled(t)
}

func TestTell(t *testing.T) {
	w := newWorld(t)
	told := make(chan []wire.KeptSession)
	go w.server.Tell(t.Context(), func(all []wire.KeptSession) {
		select {
		case told <- all:
		case <-t.Context().Done():
		}
	})
	c := w.open(t, usual, shell("read x; exit 4"))
	if got := <-told; len(got) != 1 || got[0].Clients != 1 {
		t.Errorf("told %+v", got)
	}
	c.say(t, "\r")
	for got := range told {
		if len(got) == 0 {
			break
		}
	}
	w.settled(t)
}
