package trust

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

const address = "https://example.org/images/manifest.json"

func remember(t *testing.T, m *Memory, serial int64) Document {
	t.Helper()
	doc := Document{Address: address, Raw: []byte{byte(serial)}, Signatures: map[string][]byte{"K": {1}}}
	if err := m.Remember(doc, serial); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestSerialOnlyRises(t *testing.T) {
	m := NewMemory(filepath.Join(t.TempDir(), "trust"), time.Now)
	if err := m.Check(address, 1, 0); err != nil {
		t.Errorf("first use: %v", err)
	}
	remember(t, m, 5)
	for serial, ok := range map[int64]bool{4: false, 5: true, 6: true} {
		err := m.Check(address, serial, 0)
		if (err == nil) != ok {
			t.Errorf("serial %d after 5: %v", serial, err)
		}
		if err != nil && (fault.CodeOf(err) != fault.Trust || !strings.Contains(fault.HintOf(err), m.Folder(address))) {
			t.Errorf("serial %d: %v, hint %q", serial, err, fault.HintOf(err))
		}
	}
	remember(t, m, 4) // a slower process that saw an older one
	if highest, err := m.Highest(address); err != nil || highest != 5 {
		t.Errorf("Highest = %d, %v", highest, err)
	}
	if err := m.Check("https://elsewhere.example/manifest.json", 1, 0); err != nil {
		t.Errorf("another catalogue: %v", err)
	}
}

func TestFloorHoldsWithoutMemory(t *testing.T) {
	m := NewMemory(filepath.Join(t.TempDir(), "trust"), time.Now)
	if err := m.Check(address, 6, 7); err == nil {
		t.Error("a serial below the released one was accepted")
	}
	remember(t, m, 9)
	if err := os.RemoveAll(m.Folder(address)); err != nil {
		t.Fatal(err)
	}
	if err := m.Check(address, 8, 7); err != nil {
		t.Errorf("memory deleted: %v", err)
	}
}

// Files in the folder that mean nothing are not taken for serials.
func TestJunkInTheFolder(t *testing.T) {
	m := NewMemory(t.TempDir(), time.Now)
	remember(t, m, 5)
	for _, name := range []string{"serial-", "serial-x", "serial-99999999999999999999", "xserial-77", "serial-1e3"} {
		if err := os.WriteFile(filepath.Join(m.Folder(address), name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if highest, err := m.Highest(address); err != nil || highest != 5 {
		t.Errorf("Highest = %d, %v", highest, err)
	}
}

func TestLastDocument(t *testing.T) {
	m := NewMemory(t.TempDir(), time.Now)
	if _, err := m.Last(address); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing remembered: %v", err)
	}
	remember(t, m, 1)
	want := remember(t, m, 2)
	got, err := m.Last(address)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	last := filepath.Join(m.Folder(address), lastFile)
	for name, content := range map[string]string{
		"empty": "", "cut": `{"address":`, "another catalogue's": `{"address":"https://elsewhere/"}`, "huge": strings.Repeat(" ", maxLast+1),
	} {
		if err := os.WriteFile(last, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Last(address); err == nil {
			t.Errorf("%s copy was accepted", name)
		}
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	now := time.Now()
	m := NewMemory(t.TempDir(), func() time.Time { return now })
	remember(t, m, 1)
	old, young := filepath.Join(m.Folder(address), ".last-old"), filepath.Join(m.Folder(address), ".last-young")
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, now, now.Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	remember(t, m, 2)
	if _, err := os.Lstat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a dead process's file stays")
	}
	if _, err := os.Lstat(young); err != nil {
		t.Error("a living process's file was removed")
	}
}

func TestManyRememberAtOnce(t *testing.T) {
	m := NewMemory(t.TempDir(), time.Now)
	var group sync.WaitGroup
	for serial := range int64(20) {
		group.Go(func() { remember(t, m, serial+1) })
	}
	group.Wait()
	if highest, err := m.Highest(address); err != nil || highest != 20 {
		t.Errorf("Highest = %d, %v", highest, err)
	}
	if _, err := m.Last(address); err != nil {
		t.Error(err)
	}
}
