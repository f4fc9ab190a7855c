//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
)

// link is a token bucket that all connections share. It may run behind by at
// most slack, as a router's queue would, so that a late timer costs no rate.
type link struct {
	rate float64 // bytes a second
	mu   sync.Mutex
	free time.Time // when what was admitted so far has gone out
}

const slack = 5 * time.Millisecond

// admit returns when n more bytes have gone out.
func (l *link) admit(ctx context.Context, n int) error {
	l.mu.Lock()
	if earliest := time.Now().Add(-slack); l.free.Before(earliest) {
		l.free = earliest
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	wait := time.Until(l.free)
	l.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	return pause(ctx, wait)
}

// throttled serves a folder through a link.
func throttled(folder string, megabits int) *httptest.Server {
	l := &link{rate: float64(megabits) * 1e6 / 8}
	files := http.FileServer(http.Dir(folder))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files.ServeHTTP(slowWriter{w, r.Context(), l}, r)
	}))
	// What lies in the sockets is past the link: it should be little.
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetWriteBuffer(256 << 10)
		}
		return ctx
	}
	server.Start()
	return server
}

// slowWriter sends in small pieces, so that connections share the link fairly.
type slowWriter struct {
	http.ResponseWriter
	ctx  context.Context
	link *link
}

const grain = 16 << 10

func (w slowWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		piece := p[:min(grain, len(p))]
		if err = w.link.admit(w.ctx, len(piece)); err != nil {
			return n, err
		}
		var sent int
		sent, err = w.ResponseWriter.Write(piece)
		n, p = n+sent, p[len(piece):]
	}
	return n, err
}

// few is how often something that takes long is measured.
func (b *bench) few() int { return max(1, min(3, b.rounds)) }

// slowLink compares a pull with the bare download on a link of 100 Mbit/s.
func (b *bench) slowLink(ctx context.Context) (string, error) {
	i, err := b.realImage()
	if err != nil {
		return "", err
	}
	if err := need("curl"); err != nil {
		return "", err
	}
	server := throttled(b.images, 100)
	defer server.Close()
	folder := filepath.Join(b.scratch, "slow")
	defer func() { _ = empty(folder) }()
	var pull, bare series
	for range b.few() {
		for _, side := range []struct {
			times *series
			cmd   *exec.Cmd
		}{{&bare, i.curl(ctx, server.URL+"/", folder)}, {&pull, b.pull(ctx, i, server.URL+"/", folder)}} {
			if err := fresh(folder); err != nil {
				return "", err
			}
			u, err := watched(side.cmd)
			if err != nil {
				return "", err
			}
			*side.times = append(*side.times, u.wall)
		}
	}
	r := ratio(pull, bare)
	return fmt.Sprintf("## Link of 100 Mbit/s\n\nclaude-code, %s, %d times in turn. The link is a token bucket of the server, shared by all connections, in pieces of 16 KiB, without delay or loss; 100 Mbit/s are 12.5 million bytes of content a second, so the least possible is %.2f s.\n\n| | time |\n|---|---|\n| `curl` of the four archives to files, no check, no fsync | %s |\n| `smolvm image pull` | %s |\n| ratio | %.3f (%s) |\n",
		mib(i.size()), b.few(), float64(i.size())/12.5e6, bare, pull, r, verdict(r, 1.03)), nil
}

// curl downloads the archives and does nothing with them.
func (i image) curl(ctx context.Context, address, folder string) *exec.Cmd {
	args := []string{"-sSf"}
	for n, asset := range i.row.Assets() {
		args = append(args, "-o", filepath.Join(folder, fmt.Sprint(n)), address+asset.Archive.File)
	}
	return exec.CommandContext(ctx, "curl", args...)
}

// links runs the main job from an empty state folder over links of three speeds.
func (b *bench) links(ctx context.Context) (string, error) {
	speeds := []int{100, 500, 1000}
	columns := make([]column, len(speeds))
	for n, megabits := range speeds {
		server := throttled(b.images, megabits)
		rounds := b.few()
		if megabits == 100 {
			rounds = 1
		}
		c, err := b.column(ctx, server.URL+"/manifest.json", rounds)
		server.Close()
		if err != nil {
			return "", err
		}
		columns[n] = c
	}
	return renderLinks(speeds, columns), nil
}

// column is a first launch over one link.
type column struct {
	order         []string
	stages        map[string]series
	toBoot, whole series
}

func (b *bench) column(ctx context.Context, address string, rounds int) (column, error) {
	c := column{stages: map[string]series{}}
	for range rounds {
		if err := empty(b.home); err != nil {
			return c, err
		}
		begun := time.Now()
		var booting time.Time
		err := b.events(ctx, func(e event.Event) {
			switch name := strings.TrimSpace(string(e.Stage) + " " + e.Object); {
			case e.Kind == event.Start && e.Stage == event.Boot:
				booting = time.Now()
			case e.Kind == event.Done && e.Stage != "":
				if _, known := c.stages[name]; !known {
					c.order = append(c.order, name)
				}
				c.stages[name] = append(c.stages[name], e.Elapsed)
			}
		}, "claude", "start", "--no-mount", "--rm", "--progress", "json", "--manifest", address, "--", "--version")
		if err != nil {
			return c, err
		}
		c.whole = append(c.whole, time.Since(begun))
		if booting.IsZero() {
			return c, fmt.Errorf("the launch told no start of its boot")
		}
		c.toBoot = append(c.toBoot, booting.Sub(begun))
	}
	return c, nil
}

func renderLinks(speeds []int, columns []column) string {
	var text strings.Builder
	text.WriteString("## First launch over slower links, by stage\n\n`smolvm claude start --no-mount --rm -- --version` from an empty cache, through the same kind of link. Fetch stages overlap: they share the link.\n\n| stage |")
	for n, megabits := range speeds {
		fmt.Fprintf(&text, " %d Mbit/s (%d times) |", megabits, len(columns[n].whole))
	}
	text.WriteString("\n|---|" + strings.Repeat("---|", len(speeds)) + "\n")
	row := func(name string, of func(column) series) {
		text.WriteString("| " + name + " |")
		for _, c := range columns {
			if s := of(c); len(s) > 0 {
				fmt.Fprintf(&text, " %s |", s)
			} else {
				text.WriteString(" |")
			}
		}
		text.WriteString("\n")
	}
	for _, name := range columns[len(columns)-1].order {
		row(name, func(c column) series { return c.stages[name] })
	}
	row("start of the command to start of the boot", func(c column) series { return c.toBoot })
	row("whole command, with the agent's answer", func(c column) series { return c.whole })
	took := columns[1].toBoot.median()
	fmt.Fprintf(&text, "\nGoal, without the boot, at 500 Mbit/s: at most 10 s: %s (%s).\n", met(took <= 10*time.Second), show(took))
	return text.String()
}
