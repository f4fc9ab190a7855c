package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// EnvelopeSchema is the version of the JSON envelope.
const EnvelopeSchema = 1

// Envelope is what a command with --json writes on standard output, once.
type Envelope struct {
	Schema int      `json:"schema"`
	OK     bool     `json:"ok"`
	Data   any      `json:"data"`  // null on failure, unless the command says otherwise
	Error  *Failure `json:"error"` // null on success
}

// Failure is an error in an Envelope.
type Failure struct {
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
	Hint    string     `json:"hint"`
}

// WriteData writes the envelope of a success.
func WriteData(w io.Writer, data any) error {
	return writeEnvelope(w, Envelope{Schema: EnvelopeSchema, OK: true, Data: data})
}

// WriteFailure writes the envelope of a failure; data is nil, or what was found out
// all the same.
func WriteFailure(w io.Writer, err error, data any) error {
	failure := failureOf(err)
	return writeEnvelope(w, Envelope{Schema: EnvelopeSchema, Data: data, Error: &failure})
}

func failureOf(err error) Failure {
	return Failure{
		Code:    fault.CodeOf(err),
		Message: CleanLines(err.Error()),
		Hint:    CleanLines(fault.HintOf(err)),
	}
}

func writeEnvelope(w io.Writer, envelope Envelope) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(envelope); err != nil {
		return fault.New(fault.Storage, "Free some space where the output goes.", "write the JSON result: %w", err)
	}
	return nil
}

// Colours of messages.
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	plainC = "\x1b[0m"
)

// Fail writes an error for people: what failed, then what to do about it.
func (s *Streams) Fail(err error) {
	fmt.Fprintf(s.Err, "%s %s\n", s.paint(red, "smolvm:"), CleanLines(err.Error()))
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(s.Err, "  hint: %s\n", CleanLines(hint))
	}
}

// FailJSON writes an error as --progress json does: one line, the last one.
func (s *Streams) FailJSON(now time.Time, err error) {
	_ = json.NewEncoder(s.Err).Encode(struct { // nobody to tell when the error stream is gone
		Time time.Time `json:"time"`
		Kind string    `json:"kind"`
		Failure
	}{now, "error", failureOf(err)})
}

// Say writes one line for people, apart from a command's result.
func (s *Streams) Say(format string, args ...any) {
	fmt.Fprintln(s.Err, Clean(fmt.Sprintf(format, args...)))
}

func (s *Streams) paint(colour, text string) string {
	if !s.Color {
		return text
	}
	return colour + text + plainC
}
