package script_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Statuses that tell that a documented command cannot be what users should type.
const (
	statusDefect = 1
	statusUsage  = 2
)

// documented runs each command of the program that the pages of the project show, as a user of a shell would, in a state folder of its own with the sandboxes
// that the pages speak of, which are stopped. It fails when the program does not
// understand one: what needs a machine, a network or another file may fail of that.
func documented(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: documented")
	}
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	ts.Check(err)
	ran, wrong := 0, ""
	for _, page := range append(pages, filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(page)
		ts.Check(err)
		for _, line := range shown(string(text)) {
			ran++
			if err := asTyped(ts, strconv.Itoa(ran), line); err != nil {
				wrong += fmt.Sprintf("%s: %s: %v\n", filepath.Base(page), line, err)
			}
		}
	}
	if wrong != "" || ran < 50 {
		ts.Fatalf("of %d commands:\n%s", ran, wrong)
	}
}

// shown are the commands in a page's fenced blocks: those after a prompt, or with
// nothing or a variable before them.
func shown(page string) []string {
	var found []string
	fenced := false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		line = strings.TrimPrefix(line, "$ ")
		if fenced && strings.HasPrefix(line, "smolvm ") && !placeholder(line) {
			found = append(found, line)
		}
	}
	return found
}

// placeholder tells the form of a command, as usages have it, from a command.
func placeholder(line string) bool {
	command, _, _ := strings.Cut(line, " #")
	return strings.ContainsAny(command, "[]|") || variable.MatchString(command)
}

// variable is a word that stands for one of the user's.
var variable = regexp.MustCompile(`(^| )[A-Z-]{3,}(\.\.\.)?( |$)`)

// asTyped runs a line in a shell.
func asTyped(ts *testscript.TestScript, name, line string) error {
	state := filepath.Join(ts.Getenv("WORK"), "states", name)
	ts.Check(os.MkdirAll(filepath.Dir(state), 0o700))
	ts.Check(os.CopyFS(state, os.DirFS(filepath.Join(ts.Getenv("WORK"), "state"))))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	run := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	run.Dir = filepath.Join(ts.Getenv("WORK"), "project")
	run.WaitDelay = time.Second
	run.Env = []string{"SMOLVM_HOME=" + state, "STARTED_IN=" + run.Dir, "EDITOR=true", "BROWSER=true", "GITHUB_TOKEN=x", "TERM=dumb"}
	for _, key := range []string{"PATH", "HOME", "SMOLVM_MANIFEST", "TMPDIR"} {
		run.Env = append(run.Env, key+"="+ts.Getenv(key))
	}
	var out bytes.Buffer
	run.Stdout, run.Stderr = &out, &out
	if err := run.Run(); err != nil && !understood(err, out.String()) {
		return fmt.Errorf("%w: %s", err, out.Bytes())
	}
	return nil
}

// understood reports whether a command that failed failed of what is not here.
func understood(err error, said string) bool {
	exit := new(exec.ExitError)
	if !errors.As(err, &exit) || exit.ExitCode() == statusDefect || exit.ExitCode() < 0 {
		return false
	}
	if strings.Contains(said, "no such file or directory") {
		return true
	}
	// doctor ends with the status of a wrong usage, too, when it finds nothing usable.
	refused := exit.ExitCode() == statusUsage && (strings.Contains("\n"+said, "\nsmolvm: ") || strings.Contains(said, `"usage"`))
	return !refused && !strings.Contains(said, "smolvm --help")
}
