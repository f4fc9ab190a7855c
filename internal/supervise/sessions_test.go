package supervise

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/wire"
)

func TestSessionsOfAHostileGuest(t *testing.T) {
	status := 0x1_0007
	said := []wire.KeptSession{
		{Name: "1", Command: "a\x1b]0;x\a \n b", Title: strings.Repeat("é", 5000), Clients: -3, Status: &status},
		{Name: "1"},
		{Name: ""},
		{Name: "../x"},
		{Name: "\x1b[2J"},
		{Name: strings.Repeat("x", 1000)},
	}
	seven := 7
	want := []wire.KeptSession{{Name: "1", Command: "a b", Title: strings.Repeat("é", maxShown/2), Status: &seven}}
	if diff := cmp.Diff(want, keptSessions(said)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for i := range 1000 {
		said = append(said, wire.KeptSession{Name: fmt.Sprint("s", i)})
	}
	if got := keptSessions(said); len(got) != wire.MaxSessions {
		t.Errorf("%d sessions", len(got))
	}
}
