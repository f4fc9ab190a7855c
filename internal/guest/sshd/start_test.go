//go:build linux

package sshd

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// result is how a started program ended.
type result struct {
	Out, Err string
	Status   uint32
}

// start runs a wire.Start on a session channel of its own.
func (w *world) start(t *testing.T, start wire.Start) result {
	t.Helper()
	payload, err := json.Marshal(start)
	if err != nil {
		t.Fatal(err)
	}
	channel, requests, err := w.connect(t).OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	var r result
	var group sync.WaitGroup
	group.Go(func() { r.Err = readAll(channel.Stderr()) })
	group.Go(func() { r.Out = readAll(channel) })
	group.Go(func() {
		for request := range requests {
			if request.Type == "exit-status" {
				var m struct{ Status uint32 }
				if err := ssh.Unmarshal(request.Payload, &m); err == nil {
					r.Status = m.Status
				}
			}
		}
	})
	if ok, err := channel.SendRequest(wire.RequestStart, true, payload); !ok || err != nil {
		t.Fatalf("refused: %v", err)
	}
	group.Wait()
	channel.Close()
	return r
}

func readAll(r io.Reader) string {
	b, _ := io.ReadAll(r)
	return string(b)
}

func TestStart(t *testing.T) {
	w := newWorld(t)
	plain := filepath.Join(w.home, "plain")
	script := filepath.Join(w.home, "script")
	if err := errors.Join(
		os.WriteFile(plain, nil, 0o644), os.WriteFile(script, []byte("#!/nonesuch/interpreter\n"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		start wire.Start
		want  result
	}{
		"exact arguments": {wire.Start{Argv: []string{"printf", "[%s]", "a b", "", "$HOME", "'"}}, result{"[a b][][$HOME][']", "", 0}},
		"environment":     {wire.Start{Argv: []string{"sh", "-c", "echo $A $SEED"}, Env: map[string]string{"A": "x", "SEED": "2"}}, result{"x 2\n", "", 0}},
		"folder":          {wire.Start{Argv: []string{"pwd"}, Dir: "/usr"}, result{"/usr\n", "", 0}},
		"status":          {wire.Start{Argv: []string{"sh", "-c", "exit 42"}}, result{"", "", 42}},
		"not there":       {wire.Start{Argv: []string{"nonesuch"}}, result{"", "smolvm: nonesuch: not found\n", 127}},
		"no path":         {wire.Start{Argv: []string{"/nonesuch/x"}}, result{"", "smolvm: /nonesuch/x: not found\n", 127}},
		"empty name":      {wire.Start{Argv: []string{""}}, result{"", "smolvm: empty program name: not found\n", 127}},
		"not executable":  {wire.Start{Argv: []string{plain}}, result{"", "smolvm: " + plain + ": permission denied\n", 126}},
		"a folder":        {wire.Start{Argv: []string{"/usr"}}, result{"", "smolvm: /usr: is a directory\n", 126}},
		"folder missing":  {wire.Start{Argv: []string{"pwd"}, Dir: "/nonesuch"}, result{"", "smolvm: directory: stat /nonesuch: no such file or directory\n", 126}},
		"folder a file":   {wire.Start{Argv: []string{"pwd"}, Dir: plain}, result{"", "smolvm: directory: " + plain + " is not a directory\n", 126}},
		"no interpreter":  {wire.Start{Argv: []string{script}}, result{"", "smolvm: start " + script + ": no such file or directory: not found\n", 127}},
		"no such account": {wire.Start{Argv: []string{"id"}, User: "root"}, result{"", "smolvm: no such user\n", 126}},
		"no such user":    {wire.Start{Argv: []string{"id"}, User: "daemon"}, result{"", "smolvm: user \"daemon\" may not log in\n", 126}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, w.start(t, test.start)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestApplyModes(t *testing.T) {
	termios := unix.Termios{Lflag: unix.ECHO | unix.ISIG}
	modes := []byte{
		53, 0, 0, 0, 0, // ECHO off
		51, 0, 0, 0, 1, // ICANON on
		1, 0, 0, 0, 255, // VINTR disabled
		3, 0, 0, 0, 8, // VERASE ^H
		128, 0, 0, 0x96, 0, // a speed
		99, 0, 0, 0, 1, // unknown
		0, 42,
	}
	if err := applyModes(&termios, modes); err != nil {
		t.Fatal(err)
	}
	if termios.Lflag != unix.ISIG|unix.ICANON || termios.Cc[unix.VERASE] != 8 || termios.Cc[unix.VINTR] != 0 {
		t.Errorf("got %+v", termios)
	}
	if err := applyModes(&termios, []byte{53, 0, 0}); err == nil {
		t.Error("cut modes accepted")
	}
}

func FuzzApplyModes(f *testing.F) {
	f.Add([]byte{53, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, modes []byte) {
		_ = applyModes(&unix.Termios{}, modes)
	})
}

func TestSignalNames(t *testing.T) {
	for name, sig := range signals {
		if signalName(sig) == "" || !strings.HasPrefix(signalName(sig), name) {
			t.Errorf("%s: %s", name, signalName(sig))
		}
	}
}
