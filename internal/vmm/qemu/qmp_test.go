package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/process"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\n"

// play is a QEMU that says what a script says: lines, and for each command read
// the next answers, with $ID in place of the command's id.
func play(t *testing.T, first string, answers ...string) *net.UnixConn {
	t.Helper()
	ours, file, err := process.SocketPair("test")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = ours.Close()
		<-done
	})
	go func() {
		defer close(done)
		defer func() { _ = theirs.Close() }()
		_, _ = io.WriteString(theirs, first)
		in := bufio.NewScanner(theirs)
		for _, a := range answers {
			if !in.Scan() {
				return
			}
			var command struct{ ID int }
			_ = json.Unmarshal(in.Bytes(), &command)
			_, _ = io.WriteString(theirs, strings.ReplaceAll(a, "$ID", fmt.Sprint(command.ID)))
		}
	}()
	return ours
}

func ignore(string, json.RawMessage) {}

func TestMonitorAnswersAndEvents(t *testing.T) {
	events := make(chan string, 2)
	conn := play(t, hello,
		`{"event": "RESUME", "data": {}}`+"\n"+`{"return": {}, "id": $ID}`+"\n",
		`{"return": {"status": "running"}, "id": 999}`+"\n"+`{"return": {"status": "paused"}, "id": $ID}`+"\n",
		`{"error": {"class": "GenericError", "desc": "no such thing"}, "id": $ID}`+"\n")
	m, err := openMonitor(conn, func(name string, _ json.RawMessage) { events <- name })
	if err != nil {
		t.Fatal(err)
	}
	if err := m.execute(t.Context(), "qmp_capabilities", nil); err != nil {
		t.Error(err)
	}
	if name := <-events; name != "RESUME" {
		t.Errorf("event %q", name)
	}
	var status struct{ Status string }
	if err := m.execute(t.Context(), "query-status", &status); err != nil || status.Status != "paused" {
		t.Errorf("status %q, %v; an answer to another command must not count", status.Status, err)
	}
	var refused *qmpError
	if err := m.execute(t.Context(), "stop", nil); !errors.As(err, &refused) || refused.Desc != "no such thing" {
		t.Errorf("refusal: %v", err)
	}
	<-m.done // the script is at its end
	if err := m.execute(t.Context(), "stop", nil); err == nil {
		t.Error("a command on a closed connection succeeded")
	}
}

func TestMonitorRefusesBadGreeting(t *testing.T) {
	for _, first := range []string{"", "\n", "HTTP/1.1 200 OK\n", `{"event": "RESUME"}` + "\n", `{"QMP": {}`, strings.Repeat("x", maxMessage+2)} {
		if _, err := openMonitor(play(t, first), ignore); err == nil {
			t.Errorf("greeting %.20q was accepted", first)
		}
	}
}

func TestMonitorEndsWithSilentQEMU(t *testing.T) {
	conn := play(t, hello, "") // reads the command and goes away
	m, err := openMonitor(conn, ignore)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.execute(t.Context(), "stop", nil); !errors.Is(err, io.EOF) {
		t.Errorf("answer of a QEMU that went away: %v", err)
	}
	hung := play(t, hello, "", "")
	if m, err = openMonitor(hung, ignore); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.execute(ctx, "stop", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("answer of a QEMU that hangs: %v", err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(hello))
	f.Add([]byte(`{"return": {"status": "running"}, "id": 3}` + "\n"))
	f.Add([]byte(`{"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "link"}}` + "\n"))
	f.Add([]byte(`{"error": {"class": "C", "desc": "d"}, "id": -1}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bufio.NewReader(bytes.NewReader(data))
		for {
			msg, err := readMessage(in)
			if err != nil {
				return
			}
			var result struct{ Status string }
			_ = decode("query-status", msg, &result)
			newPortForEvents(t).event(msg.Event, msg.Data)
		}
	})
}

// newPortForEvents is a machine that only takes events.
func newPortForEvents(t *testing.T) *machine {
	ours, file, err := process.SocketPair("test")
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	m := &machine{ports: map[string]*port{linkID: newPort(ours)}, stopped: make(chan struct{}, 1), moved: make(chan string, 1)}
	t.Cleanup(m.hangUp)
	return m
}
