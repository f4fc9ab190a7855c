//go:build vm

package vm_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestTop lets a sandbox work and looks whether its own accounts say so, and that
// they are not kept when nobody looks.
func TestTop(t *testing.T) {
	w := theWorld
	name := w.common(t)
	busy := w.command(t.Context(), "exec", name, "--", "sh", "-c", "echo busy; while :; do :; done")
	out, err := busy.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		busy.Process.Kill()
		busy.Wait()
	})
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(w.must(t, "top", "-n", "2", "--every", "2s", "--json", name)), "\n")
	if len(lines) != 2 {
		t.Fatalf("it says %q", lines)
	}
	for _, line := range lines {
		var v struct {
			Sandbox         string
			CPU             float64 `json:"cpu_percent"`
			Memory, Disk    int64
			Used            int64 `json:"memory_used_bytes"`
			MemoryBytes     int64 `json:"memory_bytes"`
			DiskUsed        int64 `json:"disk_used_bytes"`
			CPUs, Processes int
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		if v.Sandbox != name || v.CPU < 10 || v.CPU > 110*float64(v.CPUs) || v.Used <= 0 || v.Used >= v.MemoryBytes || v.MemoryBytes > 1<<30 || v.DiskUsed <= 0 || v.Processes < 2 {
			t.Errorf("a sandbox with one busy program says %s", line)
		}
	}
	if table := w.must(t, "top", "-n", "1", "--every", "1s"); !strings.Contains(table, "PROCESSES") || !strings.Contains(table, "\n"+name+" ") {
		t.Errorf("the table:\n%s", table)
	}
}
