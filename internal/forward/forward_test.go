package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/carry"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
)

// box is a sandbox whose ports all answer with their number and what they are
// told.
type box struct {
	refuses bool
	serving sync.WaitGroup
}

func (b *box) Port(_ context.Context, number int) (*bufio.Reader, io.ReadWriteCloser, error) {
	if b.refuses {
		return nil, nil, errors.New("connection refused")
	}
	far, inside, err := pair()
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := net.Pipe()
	b.serving.Go(func() { _ = carry.Join(far, bufio.NewReader(theirs), theirs) })
	b.serving.Go(func() {
		defer inside.Close()
		said, _ := io.ReadAll(inside)
		fmt.Fprintf(inside, "%d %s", number, said)
	})
	return bufio.NewReader(ours), ours, nil
}

func pair() (one, two *net.TCPConn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Accept()
	return a.(*net.TCPConn), b.(*net.TCPConn), err
}

func newTable(t *testing.T, b *box) *Table {
	t.Helper()
	table := New(t.Context(), b, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		table.Close()
		b.serving.Wait()
	})
	return table
}

// talk says something to an address and takes the answer.
func talk(address, what string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(conn, what)
	_ = conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(conn)
	return string(got), err
}

func TestForwards(t *testing.T) {
	table := newTable(t, &box{})
	f, err := table.Add(port.Forward{Guest: 80, Any: true})
	if err != nil || f.Host == 0 {
		t.Fatalf("%+v, %v", f, err)
	}
	if again, err := table.Add(f); err != nil || again != f {
		t.Errorf("once more: %+v, %v", again, err)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if got, err := talk(f.Listens(), fmt.Sprint("hello ", i)); err != nil || got != fmt.Sprint("80 hello ", i) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	all.Wait()
	if got, err := talk(fmt.Sprintf("[::1]:%d", f.Host), "six"); err != nil && !absent(err) || err == nil && got != "80 six" {
		t.Errorf("IPv6: %q, %v", got, err)
	}
	table.Remove(f)
	if _, err := talk(f.Listens(), ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after its removal: %v", err)
	}
}

func TestRefusedInTheSandbox(t *testing.T) {
	table := newTable(t, &box{refuses: true})
	f, err := table.Add(port.Forward{Guest: 80, Any: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := talk(f.Listens(), "x"); err == nil {
		t.Errorf("an answer %q without an error", got)
	}
}

// TestTaken: a port of either family that somebody has is named with its owner;
// where any other will do, another is taken.
func TestTaken(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil && absent(err) {
			t.Logf("this computer has no %s", address)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		table := newTable(t, &box{})
		f := port.Forward{Host: l.Addr().(*net.TCPAddr).Port, Guest: 80}
		_, err = table.Add(f)
		err = Explain(f, err)
		if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) ||
			!strings.Contains(err.Error(), filepath.Base(os.Args[0])) {
			t.Errorf("%s: %v", address, err)
		}
		if err := Try(t.Context(), f); err == nil {
			t.Errorf("%s: a taken port seems to be free", address)
		}
		f.Any = true
		if got, err := table.Add(f); err != nil || got.Host == f.Host {
			t.Errorf("%s: %+v, %v", address, got, err)
		}
	}
}

func TestAddressesOfElsewhere(t *testing.T) {
	f := port.Forward{Address: "192.0.2.1", Host: 8080, Guest: 80}
	err := Explain(f, Try(t.Context(), f))
	if fault.CodeOf(err) != fault.Host || !strings.Contains(err.Error(), "no address 192.0.2.1") {
		t.Errorf("%v", err)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	b := &box{}
	table := newTable(t, b)
	f, err := table.Add(port.Forward{Guest: 80, Any: true})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", f.Listens())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "never ends")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		table.Close()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection: %v", err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close does not return")
	}
}

func TestOwnerIsASandbox(t *testing.T) {
	if got := sandbox([]string{"/bin/smolvm", "supervise", "--home", "/h", "--name", "box"}); got != "box" {
		t.Errorf("%q", got)
	}
	if got := sandbox([]string{"curl", "--name", "x"}); got != "" {
		t.Errorf("%q", got)
	}
}
