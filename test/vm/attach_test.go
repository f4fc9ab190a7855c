//go:build vm

package vm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// talker stands in for the agent: it says its terminal's size whenever that changes,
// and answers what is typed. With arguments it is the program that they name.
const talker = `#!/bin/sh
shift # --dangerously-skip-permissions
[ $# -eq 0 ] || exec "$@"
exec python3 -c '
import os, signal, sys
last = None
def size(*_):
    global last
    now = os.get_terminal_size()
    if now != last: print("size %d x %d" % now, flush=True)
    last = now # it is also told so that it draws itself anew
signal.signal(signal.SIGWINCH, size)
print("agent", os.getpid()); size()
for line in sys.stdin:
    if line.strip() == "finish": sys.exit(7)
    print("heard", line.strip(), flush=True)
'
`

// attached is a sandbox with a talker, and terminals to look at it.
type attached struct {
	*world
	tmux
	name string
}

// TestAttachOnTerminals does in tmux what people do all day: leave an agent, come
// back to it, lose the terminal, look at it from two of them.
func TestAttachOnTerminals(t *testing.T) {
	w := theWorld
	a := attached{w, newTmux(t, w), w.sandbox(t, "terminals")}
	w.plantAgent(t, a.name, talker)
	t.Run("DetachAndComeBack", a.comeBack)
	t.Run("LostTerminal", a.lost)
	t.Run("Resize", a.resizes)
	t.Run("TwoTerminals", a.two)
	t.Run("FullScreen", a.fullScreen)
	t.Run("Titles", a.titles)
	t.Run("Status", a.status)
	t.Run("Refusals", a.refusals)
	t.Run("Renamed", a.renamed)
	t.Run("Ends", a.ends)
}

// session attaches to a session that the test knows by its name, or makes it.
func (a attached) session(t *testing.T, name string, flags ...string) pane {
	t.Helper()
	return a.open(t, append([]string{"attach", "--session", name, a.name}, flags...)...)
}

func (a attached) begin(t *testing.T, name string, agent ...string) pane {
	t.Helper()
	args := []string{"attach", "--new", "--session", name, a.name}
	if len(agent) > 0 {
		args = append(append(args, "--"), agent...)
	}
	return a.open(t, args...)
}

func (a attached) comeBack(t *testing.T) {
	p := a.open(t, "attach", a.name)
	p.until(t, `size 110 x 30`)
	p.keys(t, "one", "Enter")
	before := p.until(t, `heard one`)
	p.detach(t)
	p = a.open(t, "attach", a.name)
	if after := p.until(t, `heard one`); after != before {
		t.Errorf("the screen was\n%s\nand is now\n%s", before, after)
	}
	p.keys(t, "C-p", "two", "Enter") // ctrl-p alone is the program's
	p.until(t, `heard \S*two`)
	p.detach(t)
	p = a.open(t, "start", a.name) // the other way back, by the same agent
	p.until(t, strings.SplitN(before, "\n", 2)[0]+`\b(?s:.*)heard \S*two`)
	p.detach(t)
}

func (a attached) lost(t *testing.T) {
	p := a.begin(t, "lost")
	p.until(t, `size 110 x 30`)
	p.keys(t, "before", "Enter")
	before := p.until(t, `heard before`)
	a.do(t, "kill-pane", "-t", p.id)
	eventually(t, "nobody watches", func() bool {
		for _, s := range a.sessions(t, a.name) {
			if s.Watchers > 0 {
				return false
			}
		}
		return true
	})
	p = a.session(t, "lost")
	if after := p.until(t, `heard before`); after != before {
		t.Errorf("the screen was\n%s\nand is now\n%s", before, after)
	}
	p.keys(t, "after", "Enter")
	p.until(t, `heard after`)
	p.detach(t)
}

func (a attached) resizes(t *testing.T) {
	p := a.begin(t, "resized")
	p.until(t, `size 110 x 30`)
	p.resize(t, 133, 41)
	p.until(t, `size 133 x 41`)
	p.resize(t, 60, 12)
	p.until(t, `size 60 x 12`)
	p.detach(t)
}

// two terminals show one session in the size of the smaller; what is typed on
// either is on both.
func (a attached) two(t *testing.T) {
	large := a.begin(t, "shared")
	large.until(t, `size 110 x 30`)
	small := a.session(t, "shared")
	small.until(t, `size 110 x 30`)
	small.resize(t, 70, 20)
	large.until(t, `size 70 x 20`)
	small.until(t, `size 70 x 20`)
	small.keys(t, "from the small one", "Enter")
	large.until(t, `heard from the small one`)
	large.keys(t, "from the large one", "Enter")
	small.until(t, `heard from the large one`)
	small.detach(t)
	large.until(t, `heard from the large one(?s:.*)size 110 x 30`)
	large.detach(t)
}

// fullScreen leaves programs that draw all of the terminal, and comes back to them
// on a terminal that never showed them.
func (a attached) fullScreen(t *testing.T) {
	a.must(t, "exec", a.name, "--", "sh", "-c", "seq -f 'row %g' 500 >/workspace/rows")
	p := a.begin(t, "pager", "less", "/workspace/rows")
	p.until(t, `(?m)^row 1$(?s:.*)^row 29$`)
	p.keys(t, "Space")
	before := p.until(t, `(?m)^row 30$(?s:.*)^row 58$`)
	p.detach(t)
	p = a.session(t, "pager")
	if after := p.until(t, `(?m)^row 58$`); after != before {
		t.Errorf("less showed\n%s\nand shows now\n%s", before, after)
	}
	p.resize(t, 110, 20) // it draws itself anew
	p.keys(t, "g")
	if now := p.until(t, `(?m)^row 1$(?s:.*)^row 19$`); strings.Contains(now, "row 20") {
		t.Errorf("less shows on 20 rows\n%s", now)
	}
	a.quit(t, p) // of a key that comes with the signal of a new size less knows nothing

	p = a.begin(t, "top", "top", "-d", "1")
	p.until(t, `PID +USER`)
	p.detach(t)
	p = a.session(t, "top")
	shown := p.until(t, `^top - (?s:.*)PID +USER(?s:.*)\btop\b`)
	eventually(t, "top goes on drawing", func() bool { return p.text(t) != shown })
	p.keys(t, "q")
	p.ended(t, 0, "")
}

// quit types q until the program has ended.
func (a attached) quit(t *testing.T, p pane) {
	t.Helper()
	for range 5 {
		p.keys(t, "q")
		for range 100 {
			if strings.Contains(p.text(t), "[status ") {
				p.ended(t, 0, "")
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	t.Fatalf("it does not end; the terminal shows\n%s", p.text(t))
}

// titles hold characters with bytes that are controls in an encoding of old. Nothing
// of them is on the screen, and the terminal has them.
func (a attached) titles(t *testing.T) {
	for n, title := range []string{"✳ Claude Code", "Übung ✓"} {
		name := fmt.Sprintf("titled%d", n)
		p := a.begin(t, name, "sh", "-c", `printf '\033[?1049h\033[H\033[31mred\033[5;5HX\033]0;%s\007' "$1"; read line`, "sh", title)
		p.until(t, `(?m)^    X$`)
		p.detach(t)
		eventually(t, "the session has the title "+title, func() bool {
			return slices.Contains(a.sessions(t, a.name), keptSession{Name: name, Title: title})
		})
		p = a.session(t, name)
		if shown := p.until(t, `red`); shown != "red\n    X" {
			t.Errorf("the screen is now\n%q", shown)
		}
		if got := strings.TrimSpace(a.do(t, "display-message", "-p", "-t", p.id, "#{pane_title}")); got != title {
			t.Errorf("the terminal has the title %q, want %q", got, title)
		}
		p.keys(t, "Enter")
		p.ended(t, 0, "")
	}
}

// status of an agent that ends while its terminal shows it.
func (a attached) status(t *testing.T) {
	p := a.begin(t, "ending")
	p.until(t, `size 110 x 30`)
	p.keys(t, "finish", "Enter")
	p.ended(t, 7, "")
}

// refusals are whole lines, although the terminal is raw, and say what to do.
func (a attached) refusals(t *testing.T) {
	for _, c := range []struct {
		status int
		says   string
		args   []string
	}{
		{127, "nosuch: not found", []string{"exec", a.name, "nosuch"}},
		{126, "directory: ", []string{"exec", "-w", "/nonex", a.name, "pwd"}},
	} {
		p := a.open(t, c.args...)
		if text := p.until(t, `\[status \d+\]`); !strings.Contains(text, "\n[status") {
			t.Errorf("the next line does not begin at its beginning:\n%s", text)
		}
		p.ended(t, c.status, c.says)
	}
	p := a.begin(t, "taken")
	p.until(t, `size 110 x 30`)
	again := a.begin(t, "taken")
	again.ended(t, 125, "smolvm attach --session taken "+a.name)
	p.keys(t, "finish", "Enter")
	p.ended(t, 7, "")
}

// renamed is called by its new name from then on.
func (a attached) renamed(t *testing.T) {
	p := a.begin(t, "renamed")
	p.until(t, `size 110 x 30`)
	a.must(t, "rename", a.name, "other")
	defer a.must(t, "rename", "other", a.name)
	p.keys(t, "C-p", "C-q")
	p.ended(t, 0, "smolvm attach other")
}

// ends tells whoever is attached that the sandbox itself ends.
func (a attached) ends(t *testing.T) {
	p := a.begin(t, "restarted")
	p.until(t, `size 110 x 30`)
	a.run(t, nil, "exec", a.name, "--", "sudo", "reboot")
	p.ended(t, 125, fmt.Sprintf("sandbox %q was restarted", a.name))
	eventually(t, "it is there again", func() bool { return a.run(t, nil, "exec", a.name, "--", "true").status == 0 })
	p = a.begin(t, "stopped")
	p.until(t, `size 110 x 30`)
	a.must(t, "stop", a.name)
	p.ended(t, 125, fmt.Sprintf("sandbox %q was stopped", a.name))
}
