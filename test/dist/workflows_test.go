package dist_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The workflows keep the promises of docs/release.md. That they are well formed is
// what actionlint checks (scripts/lint).
func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(files) != 4 {
		t.Fatalf("workflows: %v %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text := read(t, file)
			pinned(t, text)
			scriptsExist(t, text)
			head, body, _ := strings.Cut(text, "\njobs:\n")
			if !strings.Contains(head, "\npermissions:\n  contents: read\n\n") {
				t.Error("a job without permissions of its own may do more than read")
			}
			for _, job := range regexp.MustCompile(`(?m)^  (?:#.*\n  )*[a-z0-9-]+:\n(?:    .*\n|\n)*`).FindAllString(body, -1) {
				keyAlone(t, job)
			}
		})
	}
}

// pinned: actions are named by commit, and say which version that is.
func pinned(t *testing.T, text string) {
	t.Helper()
	uses := regexp.MustCompile(`uses: (.*)`).FindAllStringSubmatch(text, -1)
	if len(uses) == 0 {
		t.Error("no action is used")
	}
	for _, use := range uses {
		if !regexp.MustCompile(`^[a-z]+/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`).MatchString(use[1]) {
			t.Errorf("%q is not named by commit and version", use[1])
		}
	}
}

func scriptsExist(t *testing.T, text string) {
	t.Helper()
	stages := read(t, "../../scripts/release")
	for _, m := range regexp.MustCompile(`(?:run: |>/dev/null |^\s+)(scripts/[a-z-]+|\.ci/run)(?: ([a-z-]+))?`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join("..", "..", m[1])); err != nil {
			t.Error(err)
		}
		if m[1] == "scripts/release" && !strings.Contains(stages, "\n"+m[2]+") ") && !strings.Contains(stages, "\n"+m[2]+")\n") {
			t.Errorf("scripts/release has no stage %q", m[2])
		}
	}
}

// keyAlone: a job that sees a secret waits for a person, and builds and writes nothing
// else; a job that may write sees no key.
func keyAlone(t *testing.T, job string) {
	t.Helper()
	name, _, _ := strings.Cut(strings.TrimSpace(job), ":")
	if !strings.Contains(job, "secrets.") {
		return
	}
	if !strings.Contains(job, "\n    environment: release\n") {
		t.Errorf("%s sees a secret outside the environment", name)
	}
	if strings.Contains(job, "permissions:") || strings.Contains(job, "privileged") || strings.Contains(job, "actions/cache@") {
		t.Errorf("%s sees a secret and has more than it needs", name)
	}
	for _, m := range regexp.MustCompile(`run: (.*)`).FindAllStringSubmatch(job, -1) {
		if !regexp.MustCompile(`^(scripts/release sign-[a-z]+|scripts/bootstrap|apt-get .*|git config .*)$`).MatchString(m[1]) {
			t.Errorf("%s sees a secret and runs %q", name, m[1])
		}
	}
}
