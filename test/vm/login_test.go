//go:build vm

package vm_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// loginAgent logs in as agents do. It has no browser: it asks for one by xdg-open,
// or by $BROWSER as Python does, and keeps what it gets in its home folder.
const loginAgent = `#!/usr/bin/env python3
import http.server, json, os, subprocess, sys, time, urllib.parse, urllib.request, webbrowser
how, server, page = sys.argv[2:5] # after --dangerously-skip-permissions
kept = os.path.expanduser("~/.claude/.credentials.json")

def ask(path, **form):
    return json.load(urllib.request.urlopen(server + path, urllib.parse.urlencode(form).encode()))

def by_callback(port):
    answers = []
    class Callback(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answers.append(urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query))
            self.send_response(200); self.end_headers(); self.wfile.write(b"You may close this page.")
        def log_message(self, *_): pass
    listening = http.server.HTTPServer(("127.0.0.1", int(port)), Callback)
    back = "http://localhost:%s/callback" % port
    subprocess.run(["xdg-open", page + "/authorize?" + urllib.parse.urlencode({"redirect_uri": back, "state": "s-1"})], check=True)
    listening.handle_request()
    assert answers[0]["state"] == ["s-1"], answers
    return ask("/token", code=answers[0]["code"][0], redirect_uri=back)

def by_code():
    device = ask("/device")
    print("Your code is", device["user_code"], flush=True)
    assert webbrowser.open(page + "/device?user_code=" + device["user_code"])
    while True:
        answer = ask("/token", device_code=device["device_code"])
        if "token" in answer: return answer
        time.sleep(0.2)

if how == "whoami":
    print("This is", ask("/whoami", token=json.load(open(kept))["token"])["name"])
else:
    login = by_callback(sys.argv[5]) if how == "callback" else by_code()
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    with open(kept, "w") as f: json.dump(login, f)
    print("Logged in.", flush=True)
`

// provider is a server that people log in at, on this computer's loopback.
type provider struct {
	*httptest.Server

	mu     sync.Mutex
	issued int
	codes  map[string]string // of one use each, with where they were sent
	shown  map[string]bool   // device codes, and whether their user agreed
	tokens map[string]bool
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{codes: map[string]string{}, shown: map[string]bool{}, tokens: map[string]bool{}}
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"GET /authorize": p.authorize, "GET /device": p.agree,
		"POST /device": p.device, "POST /token": p.token, "POST /whoami": p.whoami,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			p.mu.Lock()
			defer p.mu.Unlock()
			answer(w, r)
		})
	}
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// authorize is what the browser sees: it is sent back with a code.
func (p *provider) authorize(w http.ResponseWriter, r *http.Request) {
	back := r.FormValue("redirect_uri")
	code := p.next("code")
	p.codes[code] = back
	http.Redirect(w, r, back+"?code="+code+"&state="+r.FormValue("state"), http.StatusFound)
}

func (p *provider) device(w http.ResponseWriter, _ *http.Request) {
	code := p.next("device")
	p.shown[code] = false
	_ = json.NewEncoder(w).Encode(map[string]string{"device_code": code, "user_code": code})
}

func (p *provider) agree(w http.ResponseWriter, r *http.Request) {
	p.shown[r.FormValue("user_code")] = true
	fmt.Fprintln(w, "You may close this page.")
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	code, device := r.FormValue("code"), r.FormValue("device_code")
	back, given := p.codes[code]
	delete(p.codes, code)
	if !p.shown[device] && (!given || back != r.FormValue("redirect_uri")) {
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "authorization_pending"})
		return
	}
	token := p.next("token")
	p.tokens[token] = true
	_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
}

func (p *provider) whoami(w http.ResponseWriter, r *http.Request) {
	name := "nobody"
	if p.tokens[r.FormValue("token")] {
		name = "somebody"
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"name": name})
}

func (p *provider) next(kind string) string {
	p.issued++
	return kind + "-" + strconv.Itoa(p.issued)
}

func (p *provider) port() string {
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	return port
}

// browser is one that follows an address to its end, as people's do, and writes down
// the page that it ends at.
func browser(t *testing.T) (program, page string) {
	t.Helper()
	dir := t.TempDir()
	program, page = filepath.Join(dir, "browser"), filepath.Join(dir, "page")
	script := fmt.Sprintf("#!/bin/sh\ncurl -sSL \"$1\" >%[1]q.new 2>&1\nmv %[1]q.new %[1]q\n", page)
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, page
}

// freePort is a port that nobody has here now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// TestLoginFromInside logs an agent in from within a sandbox, in both ways that
// agents have: by a browser that comes back to a port, and by a code.
func TestLoginFromInside(t *testing.T) {
	p := newProvider(t)
	program, page := browser(t)
	w := theWorld.as(t, t.TempDir(), "BROWSER="+program)
	const name = "newcomer"
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1", "--allow-host", p.port())
	t.Cleanup(func() { w.remove(name) })
	w.plantAgent(t, name, loginAgent)
	t.Run("Shown", func(t *testing.T) { // by a program that ends at once
		s := w.onScreen(t, "exec", name, "xdg-open", p.URL+"/shown")
		if _, err := s.until(`opened in a browser: `+p.URL+`/shown`, bound); err != nil {
			t.Error(err)
		}
		if err := s.cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	inside, back := "http://"+guestHost+":"+p.port(), freePort(t)
	for _, login := range []struct {
		how, asks string
		args      []string
	}{
		{"callback", `answer comes to port ` + back + `(?s:.*)Open it\? \[y/N\]`, []string{back}},
		{"code", `Open it\? \[y/N\]`, nil},
	} {
		t.Run(login.how, func(t *testing.T) {
			s := w.onScreen(t, append([]string{"attach", name, "--", login.how, inside, p.URL}, login.args...)...)
			if _, err := s.until(login.asks, bound); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(page); err == nil {
				t.Fatal("the browser came before it was allowed to")
			}
			if _, err := s.master.WriteString("y"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.until(`Logged in\.`, bound); err != nil {
				t.Fatal(err)
			}
			if err := s.cmd.Wait(); err != nil {
				t.Fatalf("%v; the screen shows\n%s", err, trimmed(s.text()))
			}
			eventually(t, "the browser shows the last page", func() bool {
				raw, err := os.ReadFile(page)
				return err == nil && strings.Contains(string(raw), "You may close this page.")
			})
			if got := w.must(t, "attach", name, "--", "whoami", inside, p.URL); got != "This is somebody\n" {
				t.Errorf("the provider answers the agent %q", got)
			}
			if conn, err := net.Dial("tcp", "127.0.0.1:"+back); err == nil {
				conn.Close()
				t.Error("the port of the callback is still carried into the sandbox")
			}
			w.must(t, "exec", name, "--", "rm", "/home/agent/.claude/.credentials.json")
			if err := os.Remove(page); err != nil {
				t.Error(err)
			}
		})
	}
}
