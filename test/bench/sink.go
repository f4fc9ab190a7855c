//go:build linux

package main

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// What a connection to a sink is for: its first byte.
const (
	wantSink  = 'u' // it takes all, then answers one byte
	wantGush  = 'd' // eight bytes say how many come
	wantEcho  = 'e' // what is sent comes back
	sinkPiece = 256 << 10
)

// sink is a server on 127.0.0.1 that a guest sends to and reads from.
type sink struct {
	net.Listener
	running sync.WaitGroup
}

func newSink() (*sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{Listener: l}
	s.running.Go(s.accept)
	return s, nil
}

func (s *sink) port() int { return s.Addr().(*net.TCPAddr).Port }

func (s *sink) accept() {
	for {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() {
			defer conn.Close()
			serveSink(conn)
		})
	}
}

// serveSink does what the connection is for. An error is the guest's to notice.
func serveSink(conn net.Conn) {
	var first [9]byte
	if _, err := io.ReadFull(conn, first[:1]); err != nil {
		return
	}
	switch first[0] {
	case wantSink:
		if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{conn}, make([]byte, sinkPiece)); err == nil {
			_, _ = conn.Write(first[:1])
		}
	case wantGush:
		if _, err := io.ReadFull(conn, first[1:]); err != nil {
			return
		}
		piece := make([]byte, sinkPiece)
		for left := int64(binary.BigEndian.Uint64(first[1:])); left > 0; left -= int64(len(piece)) {
			if _, err := conn.Write(piece[:min(left, sinkPiece)]); err != nil {
				return
			}
		}
	case wantEcho:
		_, _ = io.Copy(conn, conn)
	}
}

// close ends it once all connections have ended.
func (s *sink) close() error {
	err := s.Close()
	s.running.Wait()
	return err
}
