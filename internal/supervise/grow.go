package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"time"

	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// growTime is how long the guest may take to make its file system larger: the
// kernel of an emulated one writes some hundred group descriptors a second.
const growTime = 5 * time.Minute

// growDisk makes the disk of the running sandbox larger: the file, the drive, the
// file system in the guest, and then the record. What is done stays when a later
// step fails or the power goes: the next start, or the same again, goes on. Two at
// once do no harm, as each step only ever grows.
func (s *supervisor) growDisk(ctx context.Context, size int64) error {
	if _, err := s.guest.session(ctx); err != nil { // by then there is a machine
		return err
	}
	machine, ok := s.machine.(vmm.Grower)
	if !ok {
		return fault.New(fault.Conflict, "Stop it first.", "the disk of a running sandbox cannot grow with %s", s.rec.VMM)
	}
	if err := disk.GrowScratch(s.folder.Scratch(), size); err != nil {
		return err
	}
	if err := machine.GrowDrive(ctx, wire.ScratchRole, size); err != nil {
		return err
	}
	if err := growGuest(ctx, s.guest, size); err != nil {
		return err
	}
	return s.edit(ctx, func(r *record.Record) error {
		r.DiskBytes = max(r.DiskBytes, size)
		return nil
	})
}

// growGuest has the guest make its file system as large as its drive.
func growGuest(ctx context.Context, guest sessions, size int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, growTime, errors.New("the guest does not answer"))
	defer cancel()
	stream, err := guest.stream(ctx, wire.StreamGrow)
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	line, err := json.Marshal(wire.GrowRequest{Bytes: size})
	if err == nil {
		_, err = stream.Write(append(line, '\n'))
	}
	var answer wire.GrowAnswer
	if err == nil {
		line, err = bufio.NewReaderSize(stream, wire.MaxMessage).ReadSlice('\n')
	}
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && answer.Error != "":
		err = errors.New(clipLine(plain(answer.Error)))
	}
	if err != nil {
		return fault.New(fault.Boot, "Stop and start it: its disk grows then.", "grow the file system in the sandbox: %w", err)
	}
	return nil
}

// grow grows the disk for a client, who waits.
func (s *server) grow(ctx context.Context, conn *net.UnixConn, out *frameWriter, size int64) error {
	if err := s.larger(ctx, size); err != nil {
		return s.refuse(conn, out, err)
	}
	return s.answer(conn, out, nil)
}

// Grow makes the disk of the running sandbox larger, to size bytes.
func (c *Client) Grow(ctx context.Context, size int64) error {
	var nothing any
	return c.ask(ctx, "grow the disk", request{Op: opGrow, Bytes: size}, &nothing)
}
