package supervise

import (
	"strings"

	"github.com/smolvm/smolvm/internal/wire"
)

// maxShown bounds what is taken over of a session's command and title, in bytes.
const maxShown = 512

// keptSessions takes over what the guest says of its sessions, as far as it can be
// shown: the guest may say anything.
func keptSessions(said []wire.KeptSession) []wire.KeptSession {
	all, seen := []wire.KeptSession{}, map[string]bool{}
	for _, s := range said {
		if len(all) == wire.MaxSessions {
			break
		}
		if !wire.ValidSessionName(s.Name) || seen[s.Name] {
			continue
		}
		seen[s.Name] = true
		s.Command, s.Title = shown(s.Command), shown(s.Title)
		s.Clients = max(0, s.Clients)
		if s.Status != nil {
			status := *s.Status & 0xff
			s.Status = &status
		}
		all = append(all, s)
	}
	return all
}

// runningSessions is how many have a program that runs.
func runningSessions(all []wire.KeptSession) (n int) {
	for _, s := range all {
		if s.Status == nil {
			n++
		}
	}
	return n
}

// shown is one line of what a guest wrote.
func shown(text string) string {
	text = strings.Join(strings.Fields(plain(text)), " ")
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "")
	}
	return text
}
