package cli

import (
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// portWorld has a running sandbox that forwards two ports, and a stopped one.
func portWorld(t *testing.T) *fakeWorld {
	t.Helper()
	w := newWorld(t)
	w.add("box", sandbox.Running)
	w.add("off", sandbox.Stopped)
	s := w.boxes["box"]
	s.Forwards = []port.Forward{{Host: 8080, Guest: 80}, {Address: "0.0.0.0", Host: 3000, Guest: 3000}}
	w.boxes["box"] = s
	w.taken = 7000
	return w
}

func TestPort(t *testing.T) {
	for line, want := range map[string]want{
		"port add box 5173":              {out: "127.0.0.1:5173\n", log: []string{"forward box 127.0.0.1:5173:5173"}},
		"port add box 7000":              {out: "127.0.0.1:40000\n", errs: "port 7000 of this computer is not to be had", log: []string{"forward box 127.0.0.1:7000:7000"}},
		"port add box 0:5173":            {out: "127.0.0.1:40000\n", log: []string{"forward box 127.0.0.1:0:5173"}},
		"port add box [::]:5173:1":       {out: "[::]:5173\n", errs: "whoever reaches this computer", log: []string{"forward box [::]:5173:1"}},
		"port add box 7000:1":            {status: 4, errs: "taken by curl (process 7)", log: []string{"forward box 127.0.0.1:7000:1"}},
		"port add off 7000:1":            {status: 4, errs: "taken by curl (process 7)"},
		"port add off 7001:1 --json":     {log: []string{"forward off 127.0.0.1:7001:1"}, out: envelopeOf(`[{"sandbox":"off","address":"","host":7001,"guest":1,"open":false,"reason":"the sandbox is not running"}]`)},
		"port add off 7001:1":            {log: []string{"forward off 127.0.0.1:7001:1"}, errs: "port 1 of off is forwarded from its next start on\n"},
		"port add box 8080:81":           {status: 4, errs: "127.0.0.1:8080 leads to port 80 of box already"},
		"port add box 1:1 1:2":           {status: 2, errs: "ports 1 and 2 of box cannot both be had from 127.0.0.1:1\n"},
		"port add box 80/udp":            {status: 2, errs: "only TCP is forwarded"},
		"port add nobody 80":             {status: 3, errs: "no sandbox"},
		"port remove box 80":             {log: []string{"unforward box 127.0.0.1:8080:80"}, errs: "127.0.0.1:8080 leads to port 80 of box no more\n"},
		"port remove box 8080":           {log: []string{"unforward box 127.0.0.1:8080:80"}, errs: "no more\n"},
		"port rm box 3000:3000 8080:80":  {log: []string{"unforward box 0.0.0.0:3000:3000", "unforward box 127.0.0.1:8080:80"}, errs: "no more\n"},
		"port remove box 81":             {status: 3, errs: "forwards no port 81\n  hint: It forwards 127.0.0.1:8080:80, 0.0.0.0:3000:3000."},
		"port remove off 81":             {status: 3, errs: "It forwards none."},
		"port list off":                  {errs: "No port is forwarded."},
		"port list":                      {out: "SANDBOX  THIS COMPUTER   IN THE SANDBOX  STATE\nbox      127.0.0.1:8080  80              open\nbox      0.0.0.0:3000    3000            open\n"},
		"port list --plain":              {out: "sandbox: box\nthis computer: 127.0.0.1:8080\nin the sandbox: 80\nstate: open\n\nsandbox: box\nthis computer: 0.0.0.0:3000\nin the sandbox: 3000\nstate: open\n"},
		"claude start -p 7000:1":         {status: 125, errs: "taken by curl"},
		"claude start -p x":              {status: 125, errs: "is no TCP port"},
		"claude start -p 1:1 -p 1:2":     {status: 125, errs: "ports 1 and 2 of claude-code cannot both be had from 127.0.0.1:1\n"},
		"port remove box 1:2:3:4":        {status: 2, errs: "too many parts"},
		"port remove box 8080:80 --json": {log: []string{"unforward box 127.0.0.1:8080:80"}, out: envelopeOf(`[{"sandbox":"box","address":"","host":8080,"guest":80,"open":true,"reason":""}]`)},
	} {
		portWorld(t).run(t, line, want)
	}
}

// A table that a terminal would break is written a line for each cell.
func TestTableTooWide(t *testing.T) {
	for terminal, begins := range map[bool]string{false: "SANDBOX  ", true: "sandbox: box\nthis computer: any\n"} {
		w := newWorld(t)
		w.app.Streams.OutTTY = terminal
		table := ui.NewTable("SANDBOX", "THIS COMPUTER", "STATE")
		table.Add("box", "any", strings.Repeat("wide ", 20))
		if err := w.app.table(table); err != nil || !strings.HasPrefix(w.out.String(), begins) {
			t.Errorf("terminal %v: %v\n%s", terminal, err, &w.out)
		}
	}
}

func TestPublishAndThePresetsPorts(t *testing.T) {
	for line, want := range map[string][]port.Forward{
		"openclaw start":                    {{Host: 18789, Guest: 18789, Any: true}},
		"openclaw start -p 1234:18789 -p 5": {{Host: 1234, Guest: 18789}, {Host: 5, Guest: 5, Any: true}},
	} {
		w := newWorld(t)
		withService(w)
		w.app.Main(strings.Fields(line))
		if len(w.created) != 1 || len(w.created[0].Forwards) != len(want) {
			t.Fatalf("%s: %+v, %s", line, w.created, &w.errs)
		}
		for i, f := range w.created[0].Forwards {
			if f != want[i] {
				t.Errorf("%s: forward %d is %+v", line, i, f)
			}
		}
		if !strings.Contains(w.errs.String(), want[0].Listens()+" leads to port 18789 of the sandbox") {
			t.Errorf("%s: said %s", line, &w.errs)
		}
	}
}

// TestStartSaysWhereItsPortsAre: of one that could not be had nothing is claimed.
func TestStartSaysWhereItsPortsAre(t *testing.T) {
	w := portWorld(t)
	s := w.boxes["off"]
	s.Forwards = []port.Forward{{Host: w.taken, Guest: 80}, {Address: "0.0.0.0", Host: 3000, Guest: 3000}}
	w.boxes["off"] = s
	if status := w.app.Main([]string{"start", "--no-attach", "off"}); status != 0 {
		t.Fatal(w.errs.String())
	}
	says := w.errs.String()
	if strings.Contains(says, "7000 leads") || !strings.Contains(says, "0.0.0.0:3000 leads to port 3000 of the sandbox.") || !strings.Contains(says, "whoever reaches this computer") {
		t.Errorf("said %s", says)
	}
}

// TestPublishInTheDirectorysSandbox: a start that goes on with a sandbox does not
// drop what was asked for.
func TestPublishInTheDirectorysSandbox(t *testing.T) {
	w := portWorld(t)
	w.app.Directory, w.app.Streams.InTTY, w.app.Streams.OutTTY = "/work", true, true
	s := w.boxes["box"]
	s.Directory, s.Mounts = "/work", []record.Mount{{Host: "/work", Guest: "/workspace"}}
	w.boxes["box"] = s
	w.app.Main([]string{"claude", "start", "-p", "99:98"})
	if len(w.log) == 0 || w.log[0] != "forward box 127.0.0.1:99:98" {
		t.Errorf("%q, %s", w.log, &w.errs)
	}
}

func TestInfoShowsWhatListens(t *testing.T) {
	w := portWorld(t)
	w.listening = []wire.Listening{{Port: 80, Address: "0.0.0.0", Program: "nginx"}, {Port: 5173, Address: "127.0.0.1", Program: "node"}, {Port: 5173, Address: "::1"}}
	w.app.Main([]string{"info", "box"})
	for _, line := range []string{
		"port      127.0.0.1:8080 leads to 80 in the sandbox (nginx)\n", "port      0.0.0.0:3000 leads to 3000 in the sandbox\n",
		"port      5173 in the sandbox (node), not forwarded\n",
	} {
		if strings.Count(w.out.String(), line) != 1 {
			t.Errorf("info does not say %q once:\n%s", line, &w.out)
		}
	}
}
