package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// sessionsTime bounds how long a supervisor is asked for its sessions, of which only a
// list depends.
const sessionsTime = time.Second

// sessionView is a session of a sandbox in JSON.
type sessionView struct {
	Name       string    `json:"name"`
	Command    string    `json:"command"`
	Title      string    `json:"title"` // what the program called its window; may be empty
	Started    time.Time `json:"started"`
	Used       time.Time `json:"used"`        // when somebody came or went last
	Watchers   int       `json:"watchers"`    // terminals that show it now
	ExitStatus *int      `json:"exit_status"` // null while it runs; else it ended unseen
}

func sessionsOf(all []wire.KeptSession) []sessionView {
	views := make([]sessionView, 0, len(all))
	for _, s := range all {
		views = append(views, sessionView{
			Name: s.Name, Command: ui.Clean(s.Command), Title: ui.Clean(s.Title), Watchers: s.Clients, ExitStatus: s.Status,
			Started: time.Unix(0, s.Started).UTC(), Used: time.Unix(0, s.Used).UTC(),
		})
	}
	return views
}

// text is a session for people.
func (s sessionView) text(now time.Time) string {
	text := s.Name + ": " + s.Command
	if s.Title != "" {
		text += fmt.Sprintf(" (%s)", s.Title)
	}
	switch {
	case s.ExitStatus != nil:
		return text + fmt.Sprintf(", ended with status %d %s ago, not looked at since", *s.ExitStatus, ui.Age(now, s.Used))
	case s.Watchers == 0:
		return text + fmt.Sprintf(", left %s ago", ui.Age(now, s.Used))
	case s.Watchers == 1:
		return text + ", on one terminal"
	}
	return text + fmt.Sprintf(", on %d terminals", s.Watchers)
}

// liveView is what only a sandbox's supervisor knows of it.
type liveView struct {
	sessions []sessionView
	idle     *idleView // nil: it does not run, or does not say
	troubles []record.Trouble
	memory   *memoryView
	watch    *watchView
}

// askLive asks the supervisors of running sandboxes. One that does not answer in
// time has nothing to say.
func (a *App) askLive(ctx context.Context, boxes sandboxes, all []sandbox.Status) map[string]liveView {
	found := make([]liveView, len(all))
	var group errgroup.Group
	group.SetLimit(8)
	for i, s := range all {
		found[i].sessions = []sessionView{}
		if s.State != sandbox.Running {
			continue
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, sessionsTime)
			defer cancel()
			conn, err := boxes.Connect(ctx, s.Name)
			if err != nil {
				return nil
			}
			defer conn.Close()
			if status, err := conn.Status(ctx); err == nil {
				found[i] = liveView{sessionsOf(status.Sessions), idleOf(status.Idle), status.Troubles, (*memoryView)(status.Memory), (*watchView)(status.Watch)}
			}
			return nil
		})
	}
	_ = group.Wait() // none fails
	by := map[string]liveView{}
	for i, s := range all {
		by[s.Name] = found[i]
	}
	return by
}

// add adds it to what the record says.
func (l liveView) add(v *sandboxView) {
	v.Sessions, v.Idle, v.Memory, v.Watch = l.sessions, l.idle, l.memory, l.watch
	if l.idle != nil { // it answered
		v.Troubles = troublesOf(l.troubles)
	}
}

// wish says which session of its agent somebody wants in front of him.
type wish struct {
	Session string // its name, with New that of the new one; empty: chosen here
	New     bool
	Keys    string // that detach
	Chosen  bool   // Keys were given
	Start   bool   // it is about working on, not about what has ended
	Anew    bool   // the agent has arguments, so it is started
}

// with notes the agent's arguments.
func (w wish) with(args []string) wish {
	w.Anew = len(args) > 0
	return w
}

func (w *wish) keysFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.Keys, "detach-keys", defaultDetachKeys, "`KEYS` that leave the agent running; empty: none")
}

// read notes what the command line says beside the flags' values.
func (w *wish) read(cmd *cobra.Command) { w.Chosen = cmd.Flags().Changed("detach-keys") }

// check refuses what would be ignored.
func (w wish) check(app *App, args []string, json bool) error {
	if _, err := parseDetachKeys(w.Keys); err != nil {
		return err
	}
	kept := !json && app.Streams.Interactive()
	switch {
	case w.Session != "" && !wire.ValidSessionName(w.Session):
		return refuse("Use up to 32 letters, digits, hyphens, underscores and dots.", "%q cannot name a session", w.Session)
	case w.Session != "" && !w.New && len(args) > 0:
		return refuse("Leave the arguments out, or make a new session with --new.",
			"the agent of session %s runs already and takes no arguments", w.Session)
	case (w.Session != "" || w.New) && !kept:
		return refuse("Leave it out: without a terminal the agent is always run anew.",
			"--session and --new are about sessions, which need a terminal at both ends and no --json")
	case w.Chosen && !kept:
		return refuse("Leave it out.", "--detach-keys needs a terminal at both ends and no --json")
	}
	return nil
}

// finishAgent puts the agent of a running sandbox in front of the user and hands
// its exit status back. On a terminal it is in a session, which goes on without it.
func (a *App) finishAgent(ctx context.Context, boxes sandboxes, s sandbox.Status, p program, json bool, w wish) error {
	defer func() { a.copyBack(context.WithoutCancel(ctx), boxes, renamed(boxes, s)) }()
	if json || !a.Streams.Interactive() {
		return a.finish(ctx, boxes, s.Name, p, json)
	}
	conn, err := boxes.Connect(ctx, s.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	status, err := conn.Status(ctx)
	if err != nil {
		return err
	}
	if err := a.chooseSession(&p, s.Name, status, w); err != nil {
		return err
	}
	if p.start.Keep {
		defer a.whenInterrupted(ctx, "The agent goes on without this terminal. To get it back: smolvm attach "+s.Name)()
	}
	code, err := a.attach(ctx, conn, p)
	if errors.Is(err, errDetached) {
		a.Streams.Say("Detached: the agent goes on. To get it back: smolvm attach %s", renamed(boxes, s).Name)
		return errDetached
	}
	return exitOf(code, err)
}

// renamed is the sandbox as it is now: somebody may have given it another name while
// its agent was in front of the user.
func renamed(boxes sandboxes, s sandbox.Status) sandbox.Status {
	all, _ := boxes.List() // where that fails the old name is the best that is known
	if at := slices.IndexFunc(all, func(other sandbox.Status) bool { return other.ID == s.ID && s.ID != "" }); at >= 0 {
		return all[at]
	}
	return s
}

// chooseSession makes p the session that is wanted: one that there is, or a new one.
func (a *App) chooseSession(p *program, name string, status supervise.Status, w wish) (err error) {
	if !status.Keeps {
		if w.Session != "" || w.New || w.Chosen {
			return fault.New(fault.Conflict, fmt.Sprintf("Restart it: smolvm stop %s, then smolvm start %s.", name, name),
				"sandbox %q was started by an earlier smolvm, which keeps no sessions", name)
		}
		return nil
	}
	if p.detach, err = parseDetachKeys(w.Keys); err != nil {
		return err
	}
	p.start.Keep, p.start.New, p.start.Session = true, w.New, w.Session
	if w.New || w.Anew || p.sshAgent != "" && w.Session == "" {
		p.start.New = true
		return vacant(name, w.Session, status.Sessions)
	}
	if p.sshAgent != "" {
		return refuse("Make a session of its own with --new.", "--ssh-agent comes too late for session %s, whose agent runs already", w.Session)
	}
	if w.Session != "" {
		return known(name, w.Session, status.Sessions)
	}
	found, there := likely(status.Sessions)
	switch {
	case !there:
		p.start.New = true
	case w.Start && found.Status != nil:
		a.Streams.Say("The last session ended with status %d while nobody watched. To see its end: smolvm attach --session %s %s",
			*found.Status, found.Name, name)
		p.start.New = true
	default:
		p.start.Session = found.Name
		if found.Clients > 0 {
			a.Streams.Say("Session %s is on another terminal, too. For one of your own: smolvm attach --new %s", found.Name, name)
		}
	}
	return nil
}

// known refuses a session that there is not.
func known(name, session string, all []wire.KeptSession) error {
	var names []string
	for _, s := range all {
		if s.Name == session {
			return nil
		}
		names = append(names, s.Name)
	}
	hint := fmt.Sprintf("It has none. To make it: smolvm attach --new --session %s %s", session, name)
	if names != nil {
		hint = "It has: " + strings.Join(names, ", ") + "."
	}
	return fault.New(fault.NotFound, hint, "sandbox %q has no session %q", name, session)
}

// vacant refuses the name of a session that there is, for a new one.
func vacant(name, session string, all []wire.KeptSession) error {
	if session == "" || !slices.ContainsFunc(all, func(s wire.KeptSession) bool { return s.Name == session }) {
		return nil
	}
	return fault.New(fault.Conflict,
		fmt.Sprintf("To get it in front of you: smolvm attach --session %s %s. For a new one choose another name, or leave it out.", session, name),
		"sandbox %q has a session %q already", name, session)
}

// likely is the session that somebody means who names none: one that nobody
// watches before one that is watched, running ones before ended ones, then the one
// that was used last.
func likely(all []wire.KeptSession) (best wire.KeptSession, ok bool) {
	rank := func(s wire.KeptSession) int {
		switch {
		case s.Status == nil && s.Clients == 0:
			return 2
		case s.Status != nil:
			return 1
		}
		return 0
	}
	for _, s := range all {
		if !ok || rank(s) > rank(best) || rank(s) == rank(best) && s.Used > best.Used {
			best, ok = s, true
		}
	}
	return best, ok
}
