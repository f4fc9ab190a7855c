package resolve

import (
	"errors"
	"fmt"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/trust"
)

// remember reads what is known of the catalogue: the key lists followed before,
// the newest serial, and the manifest seen last if it is still believed. A memory
// that cannot be read is told; one that somebody planted is an error.
func (l *loader) remember() error {
	l.floor = l.rules.FloorSerial
	if l.rules.Memory == nil {
		return nil
	}
	seen, err := l.rules.Memory.Seen(l.address)
	switch {
	case errors.Is(err, trust.ErrPlanted):
		return err
	case err != nil:
		l.warn("%v; serials are checked against %d only, and the keys that were given count", err, l.floor)
		return nil
	}
	for _, damage := range seen.Damage {
		l.warn("%s", damage)
	}
	l.floor = max(l.floor, seen.Serial)
	for _, list := range seen.Keys {
		l.advance(list)
	}
	if seen.Last == nil {
		return nil
	}
	if l.last, l.lastErr = l.check(*seen.Last, l.address); l.lastErr == nil {
		l.last.Remembered = true
	}
	return nil
}

// advance follows a key list, if it is for one of the roots.
func (l *loader) advance(list trust.SignedFile) (bool, error) {
	policy, followed, err := l.policy.Advance(list)
	if followed {
		l.policy, l.chain = policy, append(l.chain, list)
	}
	return followed, err
}

// keep remembers a catalogue that was just believed.
func (l *loader) keep(c Catalogue) {
	if l.rules.Memory == nil {
		return
	}
	if err := l.rules.Memory.Remember(c.Document, c.Manifest.Serial); err != nil {
		l.warn("an older manifest could not be told from this one next time: %v", err)
	}
}

// recall uses the last document; the reason it is needed is told.
func (l *loader) recall(reason error) (Catalogue, error) {
	switch {
	case l.lastErr != nil:
		return Catalogue{}, fmt.Errorf("%w (it is the manifest seen last; the newest could not be had: %v)", l.lastErr, reason)
	case l.last.Address == "":
		return Catalogue{}, reason
	}
	c := l.last
	c.Places = l.places()
	l.warn("%v; going on with the manifest seen last (serial %d)", reason, c.Manifest.Serial)
	l.tellTime(c)
	return c, nil
}

// checkSerial refuses what is older than the newest seen.
func (l *loader) checkSerial(serial int64, shown string) error {
	if serial >= l.floor {
		return nil
	}
	hint := "Somebody serves an old catalogue. Its publisher's own address has the newest."
	if l.rules.Memory != nil {
		hint = fmt.Sprintf("Somebody serves an old catalogue, or its publisher went back. If you know that it is right, remove %s.",
			l.rules.Memory.Folder(l.address))
	}
	return fault.New(fault.Trust, hint, "use the manifest at %s: its serial %d is older than %d, which was already seen", shown, serial, l.floor)
}
