// Package doctor says what facts about a computer mean for running sandboxes on
// it: one check per subject, in the order in which a user needs them, and a
// verdict.
//
// Input is a Facts value that the caller gathered; output is a Report. It starts
// nothing, reads nothing and keeps nothing on disk. What was not tested is said
// to be untested, never to be good.
package doctor

// State is the outcome of a check.
type State string

// The states, from good to bad.
const (
	OK       State = "ok"
	Untested State = "untested" // could not be looked at; the text says why
	Degraded State = "degraded" // sandboxes run, with a loss that the text names
	Unusable State = "unusable" // no sandbox can run before this is repaired
)

// Exit statuses of `smolvm doctor`.
const (
	exitOK       = 0
	exitDegraded = 1
	exitUnusable = 2
)

// Check is one subject in one line: what was found, what it means, what to do.
type Check struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Found string `json:"found"`
	Means string `json:"means,omitempty"` // empty when the state says it all
	Fix   string `json:"fix,omitempty"`   // for people
	// Commands repair it, to be run by the user; they need root or a new login.
	Commands []string `json:"commands,omitempty"`
	// Repair is what --fix can do itself.
	Repair Repair `json:"repair,omitempty"`
}

// Repair names something that can be put right without root.
type Repair string

// The repairs.
const (
	MakeHome  Repair = "make-state-folder"
	CloseHome Repair = "close-state-folder"
)

// Report is all that was found out.
type Report struct {
	Usable bool    `json:"usable"`
	Checks []Check `json:"checks"`
	Start  string  `json:"start"` // what `smolvm claude start` would do here
}

// Examine makes the report.
func Examine(f Facts) Report {
	r := Report{Checks: []Check{
		computer(f), surroundings(f), backend(f), emulator(f), firecracker(f), kvm(f), boot(f), formatter(f),
		folder(f), space(f), catalogue(f), route(f), ping(f), limits(f), cage(f), group(f), clock(f),
	}}
	r.Usable = r.Exit() != exitUnusable
	r.Start = start(f, r.Usable)
	return r
}

// Exit is the exit status that the report asks for: 0 usable, 1 usable with a
// loss or with something untested, 2 not usable.
func (r Report) Exit() int {
	status := exitOK
	for _, c := range r.Checks {
		switch c.State {
		case Unusable:
			return exitUnusable
		case Degraded, Untested:
			status = exitDegraded
		}
	}
	return status
}

// Repairs are what --fix can do.
func (r Report) Repairs() []Repair {
	var all []Repair
	for _, c := range r.Checks {
		if c.Repair != "" {
			all = append(all, c.Repair)
		}
	}
	return all
}
