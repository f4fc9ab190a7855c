package store

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

// all prunes whatever may go.
func all(holders ...Holder) PruneOptions {
	return PruneOptions{All: true, Keep: -1, Now: time.Now(), Holders: func(context.Context) ([]Holder, error) { return holders, nil }}
}

func prune(t testing.TB, s *Store, o PruneOptions) Pruned {
	t.Helper()
	p, err := s.Prune(t.Context(), o)
	must(t, err)
	return p
}

func TestLeaseHolds(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	lease, err := s.Lease(t.Context(), "launch of pi", []string{key, keyOf("not here yet")})
	must(t, err)
	p := prune(t, s, all())
	if p.Objects != 0 || len(p.Held) != 1 || p.Held[0].By != "launch of pi" || state(t, s, key) != Ready {
		t.Errorf("%+v", p)
	}
	must(t, errors.Join(lease.Release(), lease.Release()))
	if p := prune(t, s, all()); p.Objects != 1 || state(t, s, key) != Absent {
		t.Errorf("%+v", p)
	}
}

// A lease ends with its process, whatever its file says.
func TestLeaseDiesWithItsProcess(t *testing.T) {
	s := open(t)
	key := add(t, s, newName, oldBytes)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.testlogfile=")
	cmd.Env = append(os.Environ(), "STORE_TEST_JOB=hold lease", "STORE_TEST_HOME="+s.home, "STORE_TEST_STEP=0")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "leased\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if p := prune(t, s, all()); p.Objects != 0 {
		t.Errorf("pruned in spite of the lease: %+v", p)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if p := prune(t, s, all()); p.Objects != 1 || state(t, s, key) != Absent {
		t.Errorf("held by the dead: %+v", p)
	}
	if left, err := os.ReadDir(s.leases); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What is no lease holds nothing and is removed; what belongs to another version
// stays; a living lease that cannot be read holds everything.
func TestStrangeLeases(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	victim := filepath.Join(s.home, "victim")
	must(t, os.WriteFile(victim, nil, 0o644))
	must(t, os.Symlink(victim, filepath.Join(s.leases, leasePrefix+"1")))
	must(t, syscall.Mkfifo(filepath.Join(s.leases, leasePrefix+"2"), 0o666))
	must(t, os.WriteFile(filepath.Join(s.leases, leasePrefix+"3"), []byte("{"), 0o644))
	must(t, os.WriteFile(filepath.Join(s.leases, "of-another-version"), nil, 0o644))
	living := filepath.Join(s.leases, leasePrefix+"4")
	for _, content := range []string{`{"schema":2}`, `{"schema":1,"label":"x","keys":["../x"]}`, "", strings.Repeat(" ", maxLease+1)} {
		must(t, os.WriteFile(living, []byte(content), 0o644))
		file, err := os.Open(living)
		must(t, err)
		must(t, unix.Flock(int(file.Fd()), unix.LOCK_EX))
		if p := prune(t, s, all()); p.Objects != 0 || len(p.Held) != 1 || p.Held[0].By != newerVersion {
			t.Errorf("%.40q: %+v", content, p)
		}
		must(t, file.Close())
	}
	if p := prune(t, s, all()); p.Objects != 1 || state(t, s, key) != Absent {
		t.Errorf("%+v", p)
	}
	left, err := os.ReadDir(s.leases)
	if err != nil || len(left) != 1 || left[0].Name() != "of-another-version" {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(victim); err != nil {
		t.Error("the link was followed")
	}
}

func TestLeaseRefuses(t *testing.T) {
	s := open(t)
	for name, try := range map[string]struct {
		label string
		keys  []string
	}{
		"no label":   {"", nil},
		"long label": {strings.Repeat("x", maxLabel+1), nil},
		"no text":    {"\xff", nil},
		"path":       {"x", []string{"../../x"}},
		"many":       {"x", make([]string, maxKeys+1)},
	} {
		if _, err := s.Lease(t.Context(), try.label, try.keys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A user who may only read the cache locks the objects' folders.
func TestReadersLease(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	lease := s.pin([]string{key, keyOf("not here")})
	if p := prune(t, s, all()); p.Objects != 0 || len(p.Held) != 1 || p.Held[0].By != otherUser {
		t.Errorf("%+v", p)
	}
	must(t, lease.Release())
	if p := prune(t, s, all()); p.Objects != 1 {
		t.Errorf("%+v", p)
	}
}

// TestReadOnlyLease needs a user who may not write everywhere.
func TestReadOnlyLease(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere: run as another user")
	}
	s := open(t)
	key := add(t, s, "base", "bytes")
	for _, dir := range []string{s.tmp, s.leases, s.objects, s.partials, s.locks} {
		must(t, os.Chmod(dir, 0o555))
		defer os.Chmod(dir, 0o755)
	}
	lease, err := s.Lease(t.Context(), "reader", []string{key})
	must(t, err)
	if len(lease.pins) != 1 {
		t.Errorf("%d folders are locked", len(lease.pins))
	}
	must(t, lease.Release())
	if _, err := s.Prune(t.Context(), all()); fault.CodeOf(err) != fault.Storage && !isForbidden(err) {
		t.Errorf("prune: %v", err)
	}
}

// Launches lease, look, and use while a prune takes everything it may: whoever saw
// a Ready object under his lease keeps it.
func TestLaunchesAgainstPrune(t *testing.T) {
	s := openInMemory(t)
	key := keyOf("index of base")
	var launches sync.WaitGroup
	stop := make(chan struct{})
	var pruner sync.WaitGroup
	pruner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.Prune(t.Context(), all()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 4 {
		launches.Go(func() {
			for range 15 {
				lease, err := s.Lease(t.Context(), "launch", []string{key})
				must(t, err)
				repair(t, s, "base", "bytes")
				object, err := s.Lookup(t.Context(), key)
				if data, readErr := os.ReadFile(object.Path); err != nil || object.State != Ready || string(data) != "bytes" {
					t.Errorf("leased, and yet: %s, %q, %v, %v", object.State, data, err, readErr)
				}
				if err := s.Show(t.Context(), view("base", key)); err != nil {
					t.Error(err)
				}
				must(t, lease.Release())
			}
		})
	}
	launches.Wait()
	close(stop)
	pruner.Wait()
}

// Last use is known to the hour, and a recorded change is no use.
func TestLastUse(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	used := func() time.Time { return s.look(key).Used }
	old := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	must(t, os.Chtimes(s.folder(key), old, old))
	must(t, s.Show(t.Context(), view("base", key)))
	if !used().Equal(old) {
		t.Errorf("showing counts as use: %v", used())
	}
	now := time.Now().Truncate(time.Second)
	for _, step := range []struct {
		now, want time.Time
	}{{now, now}, {now.Add(30 * time.Minute), now}, {now.Add(2 * time.Hour), now.Add(2 * time.Hour)}, {now, now}} {
		s.now = func() time.Time { return step.now }
		lease, err := s.Lease(t.Context(), "x", []string{key})
		must(t, errors.Join(err, lease.Release()))
		if !used().Equal(step.want) {
			t.Errorf("used %v, want %v", used(), step.want)
		}
	}
}
