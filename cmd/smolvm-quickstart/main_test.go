package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/ui"
)

// fakeSmolVM makes a run whose smolvm is a script.
func fakeSmolVM(t *testing.T, script string) (*quickstart, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "smolvm")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "dist", "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dist", "images", "manifest.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	return &quickstart{
		options: options{Preset: "claude", Dist: filepath.Join(dir, "dist"), Program: program},
		streams: &ui.Streams{Out: io.Discard, Err: &errs},
		report:  &report{sink: event.Discard{}},
		run:     process.New(process.Options{Environ: []string{"PATH=/usr/bin:/bin", "TMPDIR=" + dir}, Self: program}),
		now:     time.Now,
	}, &errs
}

func TestLaunchUsesAnEmptyHomeAndTheServedFolder(t *testing.T) {
	q, errs := fakeSmolVM(t, `echo '{"kind":"done","stage":"boot","object":"x","elapsed_ns":2000}' >&2
echo "plain words" >&2
test -z "$(ls -A "$SMOLVM_HOME")" && test -d "$SMOLVM_HOME" && echo "$SMOLVM_HOME $SMOLVM_MANIFEST $*"`)
	l, err := q.launch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(l.output)
	if len(words) < 3 || !strings.HasPrefix(words[1], "http://127.0.0.1:") || !strings.HasSuffix(words[1], "/manifest.json") {
		t.Fatalf("output %q", l.output)
	}
	if want := "--progress json claude start --no-mount --rm -- --version"; strings.Join(words[2:], " ") != want {
		t.Errorf("arguments %q, want %q", words[2:], want)
	}
	if _, err := os.Stat(words[0]); err == nil {
		t.Error("the state folder is still there")
	}
	if got := q.report.stages; len(got) != 2 || got[0] != (stage{name: "boot x", took: 2 * time.Microsecond}) || got[1].took != l.took-got[0].took {
		t.Errorf("stages %+v of %v", got, l.took)
	}
	if errs.String() != "plain words\n" {
		t.Errorf("other words: %q", errs.String())
	}
}

func TestServedFolderEndsWithTheRun(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "asset"), []byte("bytes"), 0o644); err != nil {
		t.Fatal(err)
	}
	address, stop, err := serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(address + "/asset")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || string(raw) != "bytes" {
		t.Errorf("%q %v", raw, err)
	}
	stop()
	if _, err := http.Get(address + "/asset"); err == nil {
		t.Error("still served")
	}
}

func TestFailureOfSmolVMIsHandedOn(t *testing.T) {
	q, _ := fakeSmolVM(t, "echo 'no QEMU' >&2; exit 125")
	if _, err := q.launch(t.Context()); err == nil || !strings.Contains(err.Error(), "125") {
		t.Errorf("error %v", err)
	}
}

func TestInterruptIsPassedOnAndWaitedFor(t *testing.T) {
	q, _ := fakeSmolVM(t, `trap 'echo cleaned > "$SMOLVM_BUILD_CACHE"; kill $!; exit 130' TERM
echo '{"kind":"start","stage":"boot"}' >&2
sleep 600 & wait`)
	q.config.BuildCache = filepath.Join(t.TempDir(), "note")
	ctx, cancel := context.WithCancel(t.Context())
	q.report.sink = onEvent(cancel)
	if err := q.publish(ctx); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("error %v", err)
	}
	if raw, _ := os.ReadFile(q.config.BuildCache); string(raw) != "cleaned\n" {
		t.Error("the program was not given the time to clean up")
	}
}

// onEvent calls a function at each event.
type onEvent func()

func (f onEvent) Emit(event.Event) { f() }

func TestPublishUsesTheKernelThatIsNamed(t *testing.T) {
	for kernel, want := range map[string]bool{"": false, "/linux/own": true} {
		q, _ := fakeSmolVM(t, `echo "$*" > "$SMOLVM_BUILD_CACHE"`)
		q.Kernel, q.config.BuildCache = kernel, filepath.Join(t.TempDir(), "note")
		if err := q.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(q.config.BuildCache)
		if err != nil || strings.Contains(string(raw), "--kernel /linux/own ") != want || !strings.HasSuffix(string(raw), " claude\n") {
			t.Errorf("kernel %q: %q %v", kernel, raw, err)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-step", "compile=1500ms", "-preset", "pi"}, io.Discard)
	if err != nil || o.Preset != "pi" || len(o.Steps) != 1 || o.Steps[0] != (stage{name: "compile", took: 1500 * time.Millisecond}) {
		t.Errorf("%+v %v", o, err)
	}
	for _, args := range [][]string{{"surplus"}, {"-step", "compile"}, {"-step", "compile=soon"}, {"-unknown"}} {
		if _, err := parse(args, io.Discard); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%q: error %v", args, err)
		}
	}
}
