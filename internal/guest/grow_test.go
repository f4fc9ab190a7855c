//go:build linux

package guest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestGrowStream(t *testing.T) {
	var wanted int64
	for _, c := range []struct {
		send, answer string
		err          error
	}{
		{`{"bytes":4096}`, `{"bytes":4096}`, nil},
		{`{"bytes":4096}`, `{"bytes":4096,"error":"no room"}`, errors.New("no room")},
		{`{`, "", nil},
	} {
		ours, theirs := net.Pipe()
		g := &growing{grow: func(_ context.Context, size int64) (int64, error) {
			wanted = size
			return size, c.err
		}}
		done := make(chan error, 1)
		go func() { done <- g.Serve(t.Context(), theirs) }()
		if _, err := io.WriteString(ours, c.send+"\n"); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(ours).ReadString('\n')
		if want := c.answer; line != want && line != want+"\n" {
			t.Errorf("%s is answered with %q, want %q", c.send, line, want)
		}
		<-done
		ours.Close()
	}
	if wanted != 4096 {
		t.Errorf("%d bytes were wanted", wanted)
	}
}

// A host that goes away ends the wait for the drive.
func TestGrowStreamIsGivenUp(t *testing.T) {
	ours, theirs := net.Pipe()
	g := &growing{grow: func(ctx context.Context, _ int64) (int64, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}}
	done := make(chan error, 1)
	go func() { done <- g.Serve(t.Context(), theirs) }()
	if _, err := io.WriteString(ours, "{\"bytes\":1}\n"); err != nil {
		t.Fatal(err)
	}
	ours.Close()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("it still waits")
	}
}
