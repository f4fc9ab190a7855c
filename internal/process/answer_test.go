package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAnswerIsBounded asks programs that are not what they are called.
func TestAnswerIsBounded(t *testing.T) {
	for script, want := range map[string]string{
		"echo Firecracker v1.12.1":     "",
		"exec yes":                     "writes more than",
		"echo one; exec sleep 1000":    "no answer within",
		"echo broken >&2; exit 3":      "broken",
		"sleep 1000 & echo left; wait": "no answer within",
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), "firecracker")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			runner := New(Options{Environ: os.Environ(), Places: map[Tool]string{Firecracker: program}})
			_, err := runner.Answer(t.Context(), Firecracker, "--version")
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			if took := time.Since(begun); took > 10*answerTime {
				t.Errorf("it took %v", took)
			}
		})
	}
}
