//go:build linux

package link

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm/internal/wire"
)

// Send writes one control message. A text that would make it too long is cut.
func (s *Session) Send(message wire.Message) error {
	line, err := encodeMessage(message)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.control.Write(line); err != nil {
		return fmt.Errorf("send control message %s: %w", message.Type, err)
	}
	return nil
}

// encodeMessage returns the line of a message. How much a text grows by its
// encoding only the encoder knows, so it is halved until the line fits.
func encodeMessage(message wire.Message) ([]byte, error) {
	for {
		line, err := json.Marshal(message)
		switch {
		case err != nil:
			return nil, fmt.Errorf("encode control message: %w", err)
		case len(line) < wire.MaxMessage:
			return append(line, '\n'), nil
		case message.Text == "":
			return nil, fmt.Errorf("control message %s is too long: %d bytes", message.Type, len(line))
		}
		message.Text = message.Text[:len(message.Text)/2]
	}
}

// Receive waits for the host's next control message. Only one goroutine may
// receive. An error ends the session's control stream for good.
func (s *Session) Receive() (wire.Message, error) {
	line, err := s.lines.ReadSlice('\n')
	if err != nil {
		return wire.Message{}, fmt.Errorf("receive control message: %w", err)
	}
	return decodeMessage(line)
}

func decodeMessage(line []byte) (wire.Message, error) {
	var message wire.Message
	if err := json.Unmarshal(line, &message); err != nil {
		return message, fmt.Errorf("decode control message: %w", err)
	}
	if message.Type == "" {
		return message, errors.New("decode control message: it has no type")
	}
	return message, nil
}
