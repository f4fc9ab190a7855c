package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// maxMessage bounds one QMP message. The longest SmolVM ever asks for, the
// answer to query-status, is under 200 bytes; QEMU's own limit is 64 MiB.
const maxMessage = 1 << 20

// message is any QMP message: the greeting, an answer or an event.
type message struct {
	Greeting *greeted         `json:"QMP"`
	ID       uint64           `json:"id"`
	Return   *json.RawMessage `json:"return"`
	Error    *qmpError        `json:"error"`
	Event    string           `json:"event"`
	Data     json.RawMessage  `json:"data"`
}

// greeted is what QEMU says of itself at first.
type greeted struct {
	Version struct {
		QEMU struct{ Major, Minor int } `json:"qemu"`
	} `json:"version"`
}

// qmpError is QEMU's refusal of a command.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error is QEMU's own text.
func (e *qmpError) Error() string { return e.Desc }

// monitor is one QMP connection. Events are handed to one function, in order,
// from the goroutine that reads the connection.
type monitor struct {
	conn   io.ReadWriteCloser
	in     *bufio.Reader
	series string // of QEMU's versions, such as 7.2

	mu      sync.Mutex
	nextID  uint64
	pending map[uint64]chan message
	err     error         // why the connection ended; set before done is closed
	done    chan struct{} // closed when no more answers come
}

// openMonitor reads the greeting and negotiates, then reads messages in a
// goroutine of its own until the connection ends; done tells its end. on must
// not call execute and wait for it.
func openMonitor(conn io.ReadWriteCloser, on func(event string, data json.RawMessage)) (*monitor, error) {
	m := &monitor{
		conn: conn, in: bufio.NewReader(conn),
		pending: map[uint64]chan message{}, done: make(chan struct{}),
	}
	hello, err := readMessage(m.in)
	if err != nil {
		return nil, fmt.Errorf("read QMP greeting: %w", err)
	}
	if hello.Greeting == nil {
		return nil, errors.New("read QMP greeting: another message came first")
	}
	version := hello.Greeting.Version.QEMU
	m.series = fmt.Sprintf("%d.%d", version.Major, version.Minor)
	go m.read(on)
	return m, nil
}

// readMessage reads one line, of at most maxMessage bytes, as a message.
func readMessage(in *bufio.Reader) (message, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxMessage {
			return message{}, fmt.Errorf("QMP message longer than %d bytes", maxMessage)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return message{}, err
		}
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("QMP message: %w", err)
	}
	return m, nil
}

func (m *monitor) read(on func(string, json.RawMessage)) {
	var err error
	for {
		var msg message
		if msg, err = readMessage(m.in); err != nil {
			break
		}
		if msg.Event != "" {
			on(msg.Event, msg.Data)
			continue
		}
		m.mu.Lock()
		waiter := m.pending[msg.ID]
		delete(m.pending, msg.ID)
		m.mu.Unlock()
		if waiter != nil {
			waiter <- msg
		}
	}
	m.mu.Lock()
	m.err = fmt.Errorf("QMP connection ended: %w", err)
	m.mu.Unlock()
	close(m.done)
}

// execute runs one command and decodes its answer into result, which may be nil.
func (m *monitor) execute(ctx context.Context, command string, result any) error {
	return m.executeWith(ctx, command, struct{}{}, result)
}

// executeWith is execute with arguments.
func (m *monitor) executeWith(ctx context.Context, command string, arguments, result any) error {
	return m.exchange(ctx, command, arguments, m.conn.Write, result)
}

// giveFile hands QEMU a copy of an open file, which other commands then know by name.
func (m *monitor) giveFile(ctx context.Context, name string, file *os.File) error {
	conn, ok := m.conn.(*net.UnixConn)
	if !ok {
		return errors.New("QMP getfd: no files can be given over this connection")
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("QMP getfd: %w", err)
	}
	send := func(line []byte) (n int, err error) {
		broken := raw.Control(func(fd uintptr) {
			n, _, err = conn.WriteMsgUnix(line, syscall.UnixRights(int(fd)), nil)
		})
		return n, errors.Join(broken, err)
	}
	return m.exchange(ctx, "getfd", map[string]any{"fdname": name}, send, nil)
}

// exchange sends a command and waits for its answer.
func (m *monitor) exchange(ctx context.Context, command string, arguments any, send func([]byte) (int, error), result any) error {
	answer := make(chan message, 1)
	m.mu.Lock()
	m.nextID++
	id := m.nextID
	m.pending[id] = answer
	line, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments, "id": id})
	if err == nil {
		_, err = send(append(line, '\n'))
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.pending, id)
	}()
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: %w", command, ctx.Err())
	case <-m.done:
		return fmt.Errorf("QMP %s: %w", command, m.err)
	case msg := <-answer:
		return decode(command, msg, result)
	}
}

func decode(command string, msg message, result any) error {
	switch {
	case msg.Error != nil:
		return fmt.Errorf("QMP %s: %w", command, msg.Error)
	case msg.Return == nil:
		return fmt.Errorf("QMP %s: answer without result", command)
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(*msg.Return, result); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	return nil
}
