package fetch

import (
	"errors"
	"fmt"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// nowhere is why each of several places does not deliver a file. It is another
// error (fs.ErrNotExist, ErrUnreachable) only where every place's is.
type nowhere struct {
	file string
	each []error
}

func (e *nowhere) Error() string {
	texts := make([]string, len(e.each))
	for i, err := range e.each {
		texts[i] = err.Error()
	}
	return fmt.Sprintf("download %s: none of %d places delivers it: %s", e.file, len(e.each), strings.Join(texts, "; "))
}

func (e *nowhere) Is(target error) bool {
	for _, err := range e.each {
		if !errors.Is(err, target) {
			return false
		}
	}
	return len(e.each) > 0
}

// fault is what a caller gets. A single place's own error says all.
func (e *nowhere) fault(code fault.Code) error {
	switch {
	case len(e.each) == 0:
		return fault.New(fault.Usage, "Name one with --manifest.", "download %s: no place to download from", e.file)
	case len(e.each) == 1 && code == fault.Trust:
		return fault.New(code, e.hint(), "download %s: %w", e.file, e.each[0])
	case len(e.each) == 1:
		return e.each[0]
	}
	return fault.New(code, e.hint(), "%w", e)
}

func (e *nowhere) hint() string {
	for _, err := range e.each {
		if hint := fault.HintOf(err); hint != "" {
			return hint
		}
	}
	return "Use another mirror, or ask the publisher."
}
