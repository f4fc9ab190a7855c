package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/wire"
)

// Session runs programs in a build sandbox. An error is a failure of the sandbox;
// a program that failed is told by its status.
type Session interface {
	Exec(ctx context.Context, start wire.Start, in io.Reader, out, errs io.Writer) (status int, err error)
}

// The scripts of every build. They run inside the sandbox.
var (
	//go:embed scripts/configure.sh
	configureScript string // finishes the unpacked packages
	//go:embed scripts/clean.sh
	cleanScript string // removes what no layer may hold
)

// buildTmp is in memory in a sandbox, so that nothing in it reaches a layer.
const buildTmp = "/run/smolvm-build"

// lockDir is where a recipe's steps find its lock files.
const lockDir = buildTmp + "/locks"

// recipeEnv tells where the lock files are and keeps caches and histories of the usual installers out of a layer.
var recipeEnv = map[string]string{
	"DEBIAN_FRONTEND":  "noninteractive",
	"npm_config_cache": buildTmp + "/npm",
	"UV_CACHE_DIR":     buildTmp + "/uv",
	"PIP_NO_CACHE_DIR": "1",
	"XDG_CACHE_HOME":   buildTmp + "/cache",
	"SMOLVM_LOCKS":     lockDir,
	"TMPDIR":           buildTmp,
}

// runner runs the parts of a recipe in one sandbox.
type runner struct {
	session Session
	sink    event.Sink
	now     func() time.Time
	log     io.Writer // everything the recipe prints
	logFile string    // where that is kept
	name    string    // of what is being built
}

// stepLimit is how long a step may take that names no limit itself: what takes
// longest, installing an agent under emulation on a busy computer, took 6 min.
const stepLimit = 30 * time.Minute

// shell runs a script with "sh -eu" as a user.
func (r runner) shell(ctx context.Context, step, user, script string, in io.Reader) error {
	return r.bounded(ctx, step, user, script, in, stepLimit)
}

// bounded is shell for a script that has to end within limit.
func (r runner) bounded(ctx context.Context, step, user, script string, in io.Reader, limit time.Duration) error {
	done := event.Span(r.sink, r.now, event.Recipe, r.name+": "+step)
	tail := process.NewTail(r.log)
	start := wire.Start{Argv: []string{"/bin/sh", "-eu", "-c", script}, Env: recipeEnv, Dir: "/", User: user}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	status, err := r.session.Exec(limited, start, in, tail, tail)
	switch {
	case err != nil && limited.Err() != nil && ctx.Err() == nil:
		return r.failed(tail, "recipe %s, step %q did not end within %s and was ended", r.name, step, limit)
	case err != nil:
		return fmt.Errorf("recipe %s, step %q: %w", r.name, step, err)
	case status == killed:
		return r.failed(tail, "recipe %s, step %q was ended, most likely because the build sandbox had no more memory", r.name, step)
	case status != 0:
		return r.failed(tail, "recipe %s, step %q ended with status %d", r.name, step, status)
	}
	done(0)
	return nil
}

// failed is the fault of a step: what became of it, its last lines, and the cause
// where they tell one.
func (r runner) failed(tail *process.Tail, format string, args ...any) error {
	code, hint := recognise(tail.String())
	return fault.New(code, strings.TrimSpace(hint+" All that it printed is in "+r.logFile+"."),
		"%s; its last lines:\n%s", fmt.Sprintf(format, args...), tail)
}

// prepare makes the folder for what the recipe must not leave behind.
func (r runner) prepare(ctx context.Context) error {
	return r.shell(ctx, "prepare", "root", "install -d -m 1777 "+buildTmp, nil)
}

// run brings a recipe's lock files in, runs its steps and writes its files.
func (r runner) run(ctx context.Context, recipe preset.Recipe) error {
	for _, l := range recipe.Locks {
		if err := r.lock(ctx, l); err != nil {
			return err
		}
	}
	for _, s := range recipe.Steps {
		if err := r.bounded(ctx, s.Name, cmp.Or(s.User, "root"), s.Run, nil, s.Bound(stepLimit)); err != nil {
			return err
		}
	}
	for _, f := range recipe.Files {
		if err := r.file(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// checkLocks refuses a recipe whose lock files are not there, before work starts.
func checkLocks(p preset.Preset) error {
	for _, l := range p.Recipe.Locks {
		if _, err := readLock(p.Name, l); err != nil {
			return err
		}
	}
	return nil
}

// readLock reads a lock file. The recipe names its digest, which is part of the
// layer's key: other locked versions make another layer.
func readLock(name string, l preset.Lock) ([]byte, error) {
	data, err := fs.ReadFile(images.Files(), l.File)
	if err != nil {
		return nil, fault.New(fault.Usage, "Only the shipped recipes have lock files beside them.", "recipe %s: read lock file: %w", name, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != l.SHA256 {
		return nil, fault.New(fault.Build, "Write the lock file's digest into the recipe.",
			"recipe %s: lock file %s has SHA-256 %x, the recipe names %s", name, l.File, sum, l.SHA256)
	}
	return data, nil
}

// lock writes one lock file where the steps find it.
func (r runner) lock(ctx context.Context, l preset.Lock) error {
	data, err := readLock(r.name, l)
	if err != nil {
		return err
	}
	target := lockDir + "/" + l.File
	script := fmt.Sprintf("install -d %s\ncat > %s\n", shellQuote(path.Dir(target)), shellQuote(target))
	return r.shell(ctx, "lock file "+l.File, "root", script, bytes.NewReader(data))
}

// file writes one file, and its missing parents for the same owner.
func (r runner) file(ctx context.Context, f preset.File) error {
	owner := cmp.Or(f.Owner, wire.AgentUser)
	script := fmt.Sprintf("install -d -o %[1]s -g %[1]s %[2]s\ncat > %[3]s\nchown %[1]s:%[1]s %[3]s\nchmod %[4]s %[3]s\n",
		shellQuote(owner), strings.Join(missingParents(f.Path), " "), shellQuote(f.Path), shellQuote(cmp.Or(f.Mode, "0644")))
	return r.shell(ctx, "file "+f.Path, "root", script, strings.NewReader(f.Content))
}

// missingParents are the quoted folders above a path below the user's home, which
// belong to the user; elsewhere only the last one, which is usually there.
func missingParents(p string) []string {
	var parents []string
	for dir := path.Dir(p); strings.HasPrefix(dir, wire.AgentHome+"/"); dir = path.Dir(dir) {
		parents = append(parents, shellQuote(dir))
	}
	if parents == nil {
		return []string{shellQuote(path.Dir(p))}
	}
	slices.Reverse(parents)
	return parents
}

// check asserts that the agent's own command prints the pinned version. It runs
// with a home of its own, so that nothing it writes becomes part of the layer.
func (r runner) check(ctx context.Context, a preset.Agent) error {
	done := event.Span(r.sink, r.now, event.Recipe, r.name+": check the version")
	env := map[string]string{"HOME": buildTmp + "/home"}
	start := wire.Start{Argv: a.Check, Env: env, Dir: "/", User: wire.AgentUser}
	var out, errs bytes.Buffer
	status, err := r.session.Exec(ctx, start, nil, &out, io.MultiWriter(r.log, &errs))
	if err != nil {
		return fmt.Errorf("check %s: %w", a.Name, err)
	}
	if status != 0 {
		return fault.New(fault.Build, "It has to print the version that the recipe pins, without a failure.",
			"check %s: %s ended with status %d and said %.400q", a.Name, strings.Join(a.Check, " "), status, out.String()+errs.String())
	}
	if !printsVersion(out.String(), a.Version) {
		return fault.New(fault.Build, "The pin in the recipe and what it installs must agree.",
			"check %s: %s printed %.200q, the recipe pins version %s", a.Name, strings.Join(a.Check, " "), out.String(), a.Version)
	}
	done(0)
	return nil
}

// printsVersion tells whether text holds the version, and not as a part of a longer one.
func printsVersion(text, version string) bool {
	return regexp.MustCompile(`(^|[^0-9.])` + regexp.QuoteMeta(version) + `($|[^0-9.])`).MatchString(text)
}
