// Package guest is the guest's half of the driver conformance suite: a small
// command interpreter that runs as the only program of a test machine, or
// in-process behind a fake driver. Serve speaks over one link session; nothing
// is kept.
package guest

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/smolvm/smolvm/internal/wire"
)

// Op names a command.
type Op string

// The commands. Those that end the session have no answer.
const (
	Look     Op = "look"     // answer with Info
	Read     Op = "read"     // answer with N bytes of Drive at Offset
	Write    Op = "write"    // write Data to Drive at Offset, through to the disk
	Keep     Op = "keep"     // keep Data in memory, behind what is kept already
	Kept     Op = "kept"     // answer with all that is kept
	Say      Op = "say"      // write Text to the console
	Send     Op = "send"     // after the answer, N bytes of Pattern follow
	Take     Op = "take"     // N bytes follow; then answer with their SHA-256
	Echo     Op = "echo"     // send N bytes of Pattern to the address Text; answer with the SHA-256 of what comes back
	Reopen   Op = "reopen"   // close the port and open it again
	Reboot   Op = "reboot"   // ends the session
	PowerOff Op = "poweroff" // ends the session
)

// Request is one command, one JSON line.
type Request struct {
	Op     Op     `json:"op"`
	Drive  string `json:"drive,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	N      int64  `json:"n,omitempty"`
	Data   []byte `json:"data,omitempty"`
	Text   string `json:"text,omitempty"`
}

// Answer is the reply to a Request, one JSON line.
type Answer struct {
	Error string `json:"error,omitempty"`
	Info  *Info  `json:"info,omitempty"`
	Data  []byte `json:"data,omitempty"`
}

// Info is what the machine looks like from inside.
type Info struct {
	BootID      string  `json:"boot_id"`
	Arch        string  `json:"arch"` // GOARCH
	CPUs        int     `json:"cpus"`
	MemoryMiB   int64   `json:"memory_mib"` // usable, a little less than the machine's
	CommandLine string  `json:"command_line"`
	Networks    int     `json:"networks"` // network cards
	Random      bool    `json:"random"`   // a hardware random source
	Drives      []Drive `json:"drives"`
	UptimeMS    int64   `json:"uptime_ms"`
	SystemMS    int64   `json:"system_ms"` // CPU time spent so far, all processors
}

// Drive is one disk as the guest sees it.
type Drive struct {
	ID       string `json:"id"`
	Bytes    int64  `json:"bytes"`
	ReadOnly bool   `json:"read_only"` // as the device says
}

// Machine is what the interpreter runs on.
type Machine interface {
	Look() (Info, error)
	ReadAt(drive string, p []byte, offset int64) error
	WriteAt(drive string, p []byte, offset int64) error
	Keep(block []byte) error // as a block of its own: what was kept before stays where it is
	Kept() []byte
	Say(text string) error
	Dial(address string) (io.ReadWriteCloser, error) // over the network
}

// pattern repeats in what Send transfers; its length shares no factor with
// block sizes, so that a shifted or lost block changes the digest.
const patternLen = 65521

// Pattern is the endless stream Send transfers.
func Pattern() io.Reader {
	block := make([]byte, patternLen)
	for i := range block {
		block[i] = byte(i*i>>3 ^ i)
	}
	return &repeat{block: block}
}

type repeat struct {
	block []byte
	at    int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// Serve greets with the link's magic, waits for its echo, and carries out
// commands until one ends the session, which it returns.
func Serve(conn io.ReadWriter, m Machine) (Op, error) {
	nonce := make([]byte, wire.NonceLen)
	_, _ = rand.Read(nonce) // never fails
	hello := wire.Magic + hex.EncodeToString(nonce) + "\n"
	if _, err := io.WriteString(conn, hello); err != nil {
		return "", fmt.Errorf("greet: %w", err)
	}
	in := bufio.NewReader(conn)
	for line := ""; line != hello; { // drops what was meant for an earlier session
		var err error
		if line, err = in.ReadString('\n'); err != nil {
			return "", fmt.Errorf("wait for the echo: %w", err)
		}
	}
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return "", fmt.Errorf("read a request: %w", err)
		}
		var r Request
		if err := json.Unmarshal(line, &r); err != nil {
			return "", fmt.Errorf("read a request: %w", err)
		}
		switch r.Op {
		case Reopen, Reboot, PowerOff:
			return r.Op, nil
		}
		if err := answer(conn, in, m, r); err != nil {
			return "", fmt.Errorf("answer %s: %w", r.Op, err)
		}
	}
}

func answer(out io.Writer, in io.Reader, m Machine, r Request) error {
	reply, err := carryOut(in, m, r)
	if err != nil {
		reply.Error = err.Error()
	}
	line, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	if _, err := out.Write(append(line, '\n')); err != nil {
		return err
	}
	if r.Op == Send {
		_, err = io.CopyN(out, Pattern(), r.N)
	}
	return err
}

func carryOut(in io.Reader, m Machine, r Request) (Answer, error) {
	switch r.Op {
	case Look:
		info, err := m.Look()
		return Answer{Info: &info}, err
	case Read:
		p := make([]byte, min(r.N, 1<<20))
		err := m.ReadAt(r.Drive, p, r.Offset)
		return Answer{Data: p}, err
	case Write:
		return Answer{}, m.WriteAt(r.Drive, r.Data, r.Offset)
	case Keep:
		return Answer{}, m.Keep(r.Data)
	case Kept:
		return Answer{Data: m.Kept()}, nil
	case Say:
		return Answer{}, m.Say(r.Text)
	case Send:
		return Answer{}, nil
	case Echo:
		return echo(m, r.Text, r.N)
	case Take:
		h := sha256.New()
		_, err := io.CopyN(h, in, r.N)
		return Answer{Data: h.Sum(nil)}, err
	}
	return Answer{}, errors.New("no such command")
}

// echo sends n bytes to an address and takes as many, at the same time.
func echo(m Machine, address string, n int64) (Answer, error) {
	conn, err := m.Dial(address)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(conn, Pattern(), n)
		sent <- err
	}()
	h := sha256.New()
	_, err = io.CopyN(h, conn, n)
	if err != nil {
		_ = conn.Close() // it may still send
	}
	return Answer{Data: h.Sum(nil)}, errors.Join(err, <-sent)
}
