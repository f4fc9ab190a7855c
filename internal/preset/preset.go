// Package preset describes coding agents as data: what a user calls them, how
// they are installed, how they start, and what they need. A Preset comes from a
// file (decoded in the config room) and is only a value here; nothing is kept
// on disk.
package preset

import "time"

// Preset is one agent.
type Preset struct {
	Name    string   `toml:"name" json:"name"`
	Aliases []string `toml:"aliases" json:"aliases,omitempty"`
	Summary string   `toml:"summary" json:"summary"`
	// Unpublished says that no image of it is published: each computer builds its own.
	Unpublished bool  `toml:"unpublished" json:"unpublished,omitempty"`
	Agent       Agent `toml:"agent" json:"agent"`
	// Launch starts the agent in its full-permission mode, Ask with its own prompts kept.
	Launch []string `toml:"launch" json:"launch"`
	Ask    []string `toml:"ask" json:"ask"`
	// Arguments follow Launch or Ask when the user gives none.
	Arguments []string `toml:"arguments" json:"arguments,omitempty"`
	// Environment names the variables the agent can use for its credentials. Only names.
	Environment []string `toml:"environment" json:"environment,omitempty"`
	// Credentials say which of those need never enter a sandbox.
	Credentials []Credential `toml:"credentials" json:"credentials,omitempty"`
	// Logins are the files in which the agent keeps its login.
	Logins []Login `toml:"logins" json:"logins,omitempty"`
	// Reaches are the rules (see the egress room) that its agent needs where the
	// network is restricted, besides CommonReach.
	Reaches []string `toml:"reaches" json:"reaches,omitempty"`
	// Ports are the TCP ports that something in the sandbox listens on for the user.
	Ports    []int     `toml:"ports" json:"ports,omitempty"`
	Services []Service `toml:"services" json:"services,omitempty"`
	// Page is what `smolvm PRESET open` shows; nil: nothing.
	Page      *Page     `toml:"page" json:"page,omitempty"`
	Resources Resources `toml:"resources" json:"resources"`
	Recipe    Recipe    `toml:"recipe" json:"recipe"`
	// Origin is the path of the user's file that it came from; empty: it is shipped.
	Origin string `toml:"-" json:"origin,omitempty"`
}

// Service is a program that runs as long as the sandbox does, whoever is attached.
type Service struct {
	Name string   `toml:"name" json:"name"`
	Run  []string `toml:"run" json:"run"`
	// Ask is run in place of Run where the agent keeps its own prompts; empty: Run.
	Ask  []string `toml:"ask" json:"ask,omitempty"`
	User string   `toml:"user" json:"user,omitempty"` // root or agent (default)
	Port int      `toml:"port" json:"port,omitempty"` // one of the preset's ports, or 0
	// Health is a path that answers GET with a status below 400 once it works.
	Health  string `toml:"health" json:"health,omitempty"`
	Restart string `toml:"restart" json:"restart,omitempty"` // always (default), on-failure, never
}

// Agent is the program that the preset installs.
type Agent struct {
	Name    string `toml:"name" json:"name"`
	Version string `toml:"version" json:"version"` // pinned, exact
	// Check prints the version; the build asserts that it does.
	Check []string `toml:"check" json:"check"`
}

// Resources are defaults a flag overrides.
type Resources struct {
	CPUs      int   `toml:"cpus" json:"cpus"`             // 0: all of the host's, at most 4
	MemoryMiB int64 `toml:"memory_mib" json:"memory_mib"` // MiB
	DiskMiB   int64 `toml:"disk_mib" json:"disk_mib"`     // MiB, size of the sparse scratch
}

// Recipe installs the agent on the base, inside a sandbox.
type Recipe struct {
	Steps []Step `toml:"steps" json:"steps"`
	Files []File `toml:"files" json:"files,omitempty"`
	Locks []Lock `toml:"locks" json:"locks,omitempty"`
}

// Lock is a file beside the shipped recipes that an installer takes exact versions
// and digests from. The steps find it under its name in $SMOLVM_LOCKS.
type Lock struct {
	File   string `toml:"file" json:"file"`     // a path below the recipes' folder
	SHA256 string `toml:"sha256" json:"sha256"` // lower-case hexadecimal
}

// Step is one shell script of a recipe, run with `sh -eu`.
type Step struct {
	Name string `toml:"name" json:"name"`
	User string `toml:"user" json:"user,omitempty"` // root (default) or agent
	Run  string `toml:"run" json:"run"`
	// Limit is how long the step may take, such as 10m; 30 minutes when empty. It
	// changes no result and is therefore no part of a layer's key.
	Limit string `toml:"limit" json:"-"`
}

// Bound is the step's limit, or the usual one.
func (s Step) Bound(usual time.Duration) time.Duration {
	if d, err := time.ParseDuration(s.Limit); err == nil {
		return d
	}
	return usual
}

// File is written after the steps: the answers to first-run questions.
type File struct {
	Path    string `toml:"path" json:"path"`
	Mode    string `toml:"mode" json:"mode,omitempty"`   // octal, 0644 when empty
	Owner   string `toml:"owner" json:"owner,omitempty"` // agent (default) or root
	Content string `toml:"content" json:"content"`
}
