package host

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
)

// TestPing compares what is said with the groups that Linux lets send pings.
func TestPing(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ping_group_range")
	if err != nil {
		t.Skip(err)
	}
	var from, to int
	if _, err := fmt.Sscan(string(text), &from, &to); err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	may := slices.ContainsFunc(append(groups, os.Getegid()), func(g int) bool { return from <= g && g <= to })
	if err := Ping(); (err == nil) != may || err != nil && !strings.Contains(fault.HintOf(err), "ping_group_range") {
		t.Errorf("groups %d to %d may, these are %v: %v", from, to, groups, err)
	}
}
