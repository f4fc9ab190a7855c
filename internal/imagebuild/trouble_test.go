package imagebuild

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/wire"
)

// sayings are what npm 11, pip 26, uv 0.13, apt 3 and curl 8 really said, each made to
// fail in that way.
var sayings = []struct {
	said string
	code fault.Code
	hint string // a part
}{
	{"npm error code ETARGET\nnpm error notarget No matching version found for left-pad@99.0.0.", fault.Build, "does not have that version"},
	{"npm error code E404\nnpm error 404 Not Found - GET https://x/no-such-package", fault.Build, "does not have that version"},
	{"ERROR: Could not find a version that satisfies the requirement six==99.0.0 (from versions: 0.9.0)\nERROR: No matching distribution found for six==99.0.0", fault.Build, "does not have that version"},
	{"cause: Because there is no version of six==99.0.0 and you require six==99.0.0", fault.Build, "does not have that version"},
	{"cause: Because nothing was not found in the package registry and you require nothing==1", fault.Build, "does not have that version"},
	{"E: Unable to locate package no-such-package", fault.Build, "does not have that version"},

	{"npm error code EINTEGRITY\nnpm error Integrity checksum failed when using sha512: wanted sha512-AAAA", fault.Trust, "not what the recipe locks"},
	{"ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", fault.Trust, "not what the recipe locks"},
	{"  cause: Hash mismatch for `six==1.16.0`", fault.Trust, "not what the recipe locks"},
	{"E: Failed to fetch http://x/y.deb  Hash Sum mismatch", fault.Trust, "not what the recipe locks"},

	{"npm error network request to https://nowhere.invalid/left-pad failed, reason: getaddrinfo ENOTFOUND nowhere.invalid", fault.Network, "Names cannot be resolved"},
	{"npm error code EAI_AGAIN", fault.Network, "Names cannot be resolved"},
	{"curl: (6) Could not resolve host: nowhere.invalid", fault.Network, "Names cannot be resolved"},
	{"  cause: failed to lookup address information: Name or service not known", fault.Network, "Names cannot be resolved"},
	{"W: Failed to fetch http://deb.debian.org/x  Temporary failure resolving 'deb.debian.org'\nE: Unable to locate package git", fault.Network, "Names cannot be resolved"},

	{"npm error FetchError: request to http://127.0.0.1:9/left-pad failed, reason: connect ECONNREFUSED 127.0.0.1:9", fault.Network, "did not answer"},
	{"  cause: tcp connect error\n  cause: Connection refused (os error 111)", fault.Network, "did not answer"},
	{"curl: (7) Failed to connect to 127.0.0.1 port 9 after 0 ms: Couldn't connect to server", fault.Network, "did not answer"},
	{"ERROR: No matching distribution found for six==1.16.0 (from versions: none)", fault.Network, "did not answer, or has no package"},
	{"npm error code E503\nnpm error 503 Service Unavailable", fault.Network, "out of order"},
	{"npm error code SELF_SIGNED_CERT_IN_CHAIN", fault.Network, "SSL_CERT_FILE"},
	{"curl: (60) SSL certificate problem: unable to get local issuer certificate", fault.Network, "SSL_CERT_FILE"},

	{"fallocate: fallocate failed: No space left on device", fault.Storage, "sandbox is full"},
	{"npm error code ENOSPC\nnpm error syscall write", fault.Storage, "sandbox is full"},
	{"tar: x: Cannot write: Input/output error", fault.Storage, "this computer's own disk"},

	{"sh: 1: frobnicate: not found", fault.Build, ""},
	{"", fault.Build, ""},
}

func TestTroublesAreRecognised(t *testing.T) {
	for _, s := range sayings {
		code, hint := recognise(s.said)
		if code != s.code || !strings.Contains(hint, s.hint) || (hint == "") != (s.hint == "") {
			t.Errorf("%q: %s, %q; want %s, %q", s.said, code, hint, s.code, s.hint)
		}
	}
}

// TestFailedStepSaysWhatToDo holds that a step's failure has what became of it, its
// own words, the cause, and the log.
func TestFailedStepSaysWhatToDo(t *testing.T) {
	for status, became := range map[int]string{1: "ended with status 1", killed: "no more memory"} {
		r := newRunner(&scripted{answer: func(wire.Start, string) (string, int, error) {
			return "writing\nENOSPC\n", status, nil
		}}, io.Discard)
		r.logFile = "/cache/log/demo.log"
		err := r.run(t.Context(), preset.Recipe{Steps: []preset.Step{{Name: "install", Run: "x"}}})
		if fault.CodeOf(err) != fault.Storage || !strings.Contains(err.Error(), became) || !strings.Contains(err.Error(), "writing\nENOSPC") {
			t.Errorf("status %d: %v", status, err)
		}
		if hint := fault.HintOf(err); !strings.Contains(hint, "sandbox is full") || !strings.Contains(hint, "/cache/log/demo.log") {
			t.Errorf("status %d: hint %q", status, hint)
		}
	}
}

// TestFailedDownloadKeepsWhatIsKnown holds that a missing program is still told with
// what brings it, and a network that is down as such.
func TestFailedDownloadKeepsWhatIsKnown(t *testing.T) {
	missing := fault.New(fault.Host, "Install it.", "find program mmdebstrap")
	if err := fetchFailed(missing, "download packages of %s", "trixie"); fault.CodeOf(err) != fault.Host || fault.HintOf(err) != "Install it." {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
	err := fetchFailed(errors.New("mmdebstrap: exit status 25: Temporary failure resolving 'deb.debian.org'"), "download packages of %s", "trixie")
	if fault.CodeOf(err) != fault.Network || !strings.Contains(err.Error(), "download packages of trixie: mmdebstrap") || fault.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
}
