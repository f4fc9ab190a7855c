package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
)

// TestJournalTellsWhatEnded has a line for each connection that ended or was refused,
// when the network has ended at the latest.
func TestJournalTellsWhatEnded(t *testing.T) {
	var mu sync.Mutex
	var lines []Entry
	t.Run("run", func(t *testing.T) {
		g := newGuestWith(t, Config{Policy: egress.Policy{}, Journal: func(e Entry) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, e)
		}})
		g.serve(t, "203.0.113.7:80", echoes)
		conn, err := g.tcp(t, "203.0.113.7:80")
		if err != nil {
			t.Fatal(err)
		}
		talk(t, conn)
		_ = conn.Close()
		eventually(t, func() bool { return g.network.flows.count(egress.TCP) == 0 })
		_, _ = g.tcp(t, "10.0.0.1:80")
		g.ask(t, "x.example", typeA)
	})
	text := ""
	for _, e := range lines {
		text += fmt.Sprintln(e.Protocol, e.To, e.Verdict, e.Sent, e.Received)
	}
	want := "tcp 10.0.0.1:80 refused 0 0\n"
	ended := "tcp 203.0.113.7:80 allowed 4 4\n"
	if text != want+ended && text != ended+want {
		t.Errorf("got\n%s", text)
	}
}

// TestJournalNeverWaits tells more than anybody writes, and says how much is missing.
func TestJournalNeverWaits(t *testing.T) {
	begun, go_ := make(chan struct{}), make(chan struct{})
	var once sync.Once
	written, lost := 0, int64(0)
	now := time.Unix(1000, 0)
	j := newJournal(func(e Entry) {
		once.Do(func() { close(begun); <-go_ })
		written++
		lost += e.Lost
	}, func() time.Time { return now })
	go j.run()
	j.tell(Entry{})
	<-begun
	const many = linesBurst + 500
	for range many {
		j.tell(Entry{})
	}
	close(go_)
	for len(j.lines) > 0 {
		time.Sleep(time.Millisecond)
	}
	now = now.Add(time.Second)
	j.tell(Entry{})
	j.end()
	if written != 1+waitingLines+1 || int64(written)+lost != many+2 {
		t.Errorf("%d written and %d lost of %d", written, lost, many+2)
	}
}

// TestCaptureIsReadable reads back what was captured.
func TestCaptureIsReadable(t *testing.T) {
	var file bytes.Buffer
	c, err := newCapture(&file, 300, func() time.Time { return time.Unix(1000, 5e6) })
	if err != nil {
		t.Fatal(err)
	}
	c.frame([][]byte{bytes.Repeat([]byte{1}, 60), bytes.Repeat([]byte{2}, 40)})
	c.frame([][]byte{bytes.Repeat([]byte{3}, 60)})
	c.frame([][]byte{bytes.Repeat([]byte{4}, 100)}) // does not fit
	c.frame([][]byte{{5}})                          // comes after the end
	head := file.Next(24)
	if binary.LittleEndian.Uint32(head) != 0xa1b2c3d4 || !bytes.Equal(head[4:8], []byte{2, 0, 4, 0}) || head[20] != 1 {
		t.Errorf("header %x", head)
	}
	for _, size := range []int{100, 60} {
		line := file.Next(16)
		if binary.LittleEndian.Uint32(line) != 1000 || binary.LittleEndian.Uint32(line[4:]) != 5000 ||
			binary.LittleEndian.Uint32(line[8:]) != uint32(size) || len(file.Next(size)) != size {
			t.Errorf("packet of %d bytes: %x", size, line)
		}
	}
	if file.Len() > 0 {
		t.Errorf("%d bytes follow", file.Len())
	}
}

// fullDisk is a disk that is full after the header.
type fullDisk struct{ writes int }

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.writes++; f.writes > 1 {
		return 0, errors.New("no space")
	}
	return len(p), nil
}

// TestCaptureThatCannotBeWritten ends, and the network goes on.
func TestCaptureThatCannotBeWritten(t *testing.T) {
	disk := &fullDisk{}
	g := newGuestWith(t, Config{Policy: egress.Policy{}, Capture: disk})
	g.serve(t, "203.0.113.7:80", echoes)
	conn, err := g.tcp(t, "203.0.113.7:80")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, conn)
	_ = conn.Close()
	if disk.writes != 2 {
		t.Errorf("%d writes", disk.writes)
	}
	if _, err := New(g.link, Config{Now: time.Now, Capture: broken{}}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a header that cannot be written gives %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrShortWrite }
