package supervise

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

func TestFrames(t *testing.T) {
	var buf bytes.Buffer
	w := &frameWriter{out: &buf}
	payloads := [][]byte{nil, []byte("x"), bytes.Repeat([]byte("y"), maxFrame)}
	for _, p := range payloads {
		if err := w.send(stdout, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.send(stdout, make([]byte, maxFrame+1)); err == nil {
		t.Error("a frame above the limit was sent")
	}
	r := &frameReader{in: &buf}
	for _, want := range payloads {
		k, got, err := r.next()
		if err != nil || k != stdout || !bytes.Equal(got, want) {
			t.Errorf("frame %q of %d bytes, %v", byte(k), len(got), err)
		}
	}
	if _, _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	long := binary.BigEndian.AppendUint32([]byte{byte(stdin)}, maxFrame+1)
	for name, in := range map[string][]byte{"too long": long, "cut header": long[:3], "cut payload": {'i', 0, 0, 0, 2, 'x'}, "no payload": {'i', 0, 0, 0, 2}} {
		if _, _, err := (&frameReader{in: bytes.NewReader(in)}).next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeRequest(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":1,"op":"exec"}`:                "without a command",
		`{"version":1,"op":"stop","grace_ns":-1}`:  "negative",
		`{"version":5,"op":"status"}`:              "version 1 to 4 of the control protocol, this smolvm 5",
		`{}`:                                       "version",
		`{"version":1`:                             "decode",
		`{"version":1,"op":"exec","command":"sh"}`: "decode",
	} {
		if _, err := decodeRequest(requested, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := decodeRequest(stdin, []byte(`{"version":1,"op":"status"}`)); err == nil {
		t.Error("input was taken for a request")
	}
	got, err := decodeRequest(requested, []byte(`{"version":1,"op":"exec","command":{"argv":["a"],"user":"root","tty":true,"size":{"columns":3,"rows":4}}}`))
	want := request{Version: 1, Op: opExec, Command: &Command{
		Start: wire.Start{Argv: []string{"a"}, User: "root"}, TTY: true, Size: wire.Size{Columns: 3, Rows: 4},
	}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

// TestFailure carries a fault to another process.
func TestFailure(t *testing.T) {
	err := failureOf(fault.New(fault.Boot, "try again", "start: %w", io.EOF)).err()
	if fault.CodeOf(err) != fault.Boot || fault.HintOf(err) != "try again" || err.Error() != "start: EOF" {
		t.Errorf("%v (%s, %s)", err, fault.CodeOf(err), fault.HintOf(err))
	}
	long := failureOf(errors.New(strings.Repeat("x", 1<<20)))
	if len(long.Text) > maxFailureText+3 || long.Code != fault.Internal {
		t.Errorf("%d bytes, %s", len(long.Text), long.Code)
	}
}

func TestAllowance(t *testing.T) {
	a := newAllowance()
	if got := a.take(2 * stdinCredit); got != stdinCredit {
		t.Errorf("took %d at once", got)
	}
	taken := make(chan int)
	go func() { taken <- a.take(10) }()
	a.add(3)
	if got := <-taken; got != 3 {
		t.Errorf("took %d of 3", got)
	}
	go func() { taken <- a.take(10) }()
	a.close()
	if got := <-taken; got != 0 {
		t.Errorf("took %d after the end", got)
	}
}

func TestInflow(t *testing.T) {
	f := newInflow()
	if err := f.add(make([]byte, stdinCredit)); err != nil {
		t.Fatal(err)
	}
	if err := f.add([]byte("x")); err == nil {
		t.Error("more than the credit was taken")
	}
	f.end()
	if got, err := io.ReadAll(f); err != nil || len(got) != stdinCredit {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	f = newInflow()
	_ = f.add([]byte("x"))
	f.cancel()
	if n, err := f.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes after cancel, %v", n, err)
	}
}

func TestDeadline(t *testing.T) {
	var d deadline
	if d.over() != nil {
		t.Error("a deadline before there is one")
	}
	at := time.Unix(0, 0)
	d.within(at, time.Hour)
	d.within(at, time.Millisecond) // earlier: counts
	d.within(at, time.Hour)        // later: does not
	<-d.over()
	d.stop()
}

// FuzzServerFrames feeds a server's reader what a client might send.
func FuzzServerFrames(f *testing.F) {
	var seed bytes.Buffer
	w := &frameWriter{out: &seed}
	_ = w.sendJSON(requested, request{Version: 1, Op: opExec, Command: &Command{}})
	_ = w.send(stdin, []byte("input"))
	_ = w.sendJSON(resize, wire.Size{Columns: 1})
	_ = w.send(signal, []byte("INT"))
	f.Add(seed.Bytes())
	f.Add([]byte{'R', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &frameReader{in: bytes.NewReader(data)}
		k, payload, err := in.next()
		if err != nil {
			return
		}
		if r, err := decodeRequest(k, payload); err == nil && (r.Version < oldestProtocol || r.Version > protocolVersion || r.Op == opExec && r.Command == nil || r.Grace < 0) {
			t.Errorf("request %+v was accepted", r)
		}
		relay := &relay{in: in, input: newInflow()}
		_ = relay.readClient()
		if len(relay.input.data) > stdinCredit {
			t.Errorf("%d bytes are held", len(relay.input.data))
		}
	})
}

// FuzzCredit checks the one binary payload a client reads.
func FuzzCredit(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		if n, err := decodeCredit(p); err == nil && (n < 0 || n > stdinCredit) {
			t.Errorf("credit %d", n)
		}
	})
}
