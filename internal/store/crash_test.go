package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain runs this program again as a process that dies after its nth file
// operation.
func TestMain(m *testing.M) {
	if name := os.Getenv("STORE_TEST_JOB"); name != "" {
		os.Exit(victim(name, os.Getenv("STORE_TEST_HOME"), os.Getenv("STORE_TEST_STEP")))
	}
	os.Exit(m.Run())
}

// job is an operation that is stopped everywhere. Prepare runs before it in a
// living process.
type job struct {
	prepare, run func(t testing.TB, s *Store)
}

// The image that all jobs are about.
const (
	oldBytes = "the bytes of the base, and more of them"
	newName  = "base.ext4"
)

func jobImage() View { return view(newName, keyOf("index of "+newName)) }

func nothing(testing.TB, *Store) {}

func jobPresent(t testing.TB, s *Store) {
	add(t, s, newName, oldBytes)
	must(t, s.Show(t.Context(), jobImage()))
}

func jobTouched(t testing.TB, s *Store) {
	jobPresent(t, s)
	must(t, os.Chtimes(s.look(jobImage().Files[0].Key).Path, time.Now(), time.Now()))
}

// jobs are the rows of the table in docs/decisions/format-store.md.
var jobs = map[string]job{
	"download": {nothing, func(t testing.TB, s *Store) {
		claim := seize(t, s, jobImage().Files[0].Key)
		must(t, claim.KeepIndex([]byte("index of "+newName)))
		file, err := claim.Partial()
		must(t, err)
		_, err = file.WriteString(oldBytes[:5])
		must(t, err)
		claim.Progress(5, 39)
		s.did("write", file.Name())
		must(t, claim.Release())
	}},
	"commit":  {nothing, func(t testing.TB, s *Store) { add(t, s, newName, oldBytes) }},
	"replace": {jobTouched, func(t testing.TB, s *Store) { repair(t, s, newName, oldBytes) }},
	"settle": {jobTouched, func(t testing.TB, s *Store) {
		settleAs(t, s, newName, oldBytes)
	}},
	"doubt": {jobPresent, func(t testing.TB, s *Store) {
		claim := seize(t, s, jobImage().Files[0].Key)
		must(t, errors.Join(claim.Doubt(t.Context()), claim.Release()))
	}},
	"drop": {jobPresent, func(t testing.TB, s *Store) {
		claim := seize(t, s, jobImage().Files[0].Key)
		must(t, errors.Join(claim.Drop(t.Context()), claim.Release()))
	}},
	"keep archive": {jobPresent, func(t testing.TB, s *Store) { keepArchive(t, s, newName) }},
	"show": {
		func(t testing.TB, s *Store) { add(t, s, newName, oldBytes) },
		func(t testing.TB, s *Store) { must(t, s.Show(t.Context(), jobImage())) },
	},
	"show anew": {
		func(t testing.TB, s *Store) {
			jobPresent(t, s)
			must(t, os.Remove(filepath.Join(s.Folder(jobImage()), newName+sidecarSuffix)))
		},
		func(t testing.TB, s *Store) { must(t, s.Show(t.Context(), jobImage())) },
	},
	"show copies": {
		func(t testing.TB, s *Store) { add(t, s, newName, oldBytes) },
		func(t testing.TB, s *Store) { unlinkable(s); must(t, s.Show(t.Context(), jobImage())) },
	},
	"lease": {jobPresent, func(t testing.TB, s *Store) {
		lease, err := s.Lease(t.Context(), "launch", []string{jobImage().Files[0].Key})
		must(t, err)
		s.did("leased", "")
		must(t, lease.Release())
	}},
	"prune": {
		func(t testing.TB, s *Store) {
			jobPresent(t, s)
			other := view(newName, jobImage().Files[0].Key) // shows the same object, and stays
			other.Release = "2.0"
			must(t, s.Show(t.Context(), other))
			add(t, s, "orphan", "nobody shows me")
			partialOf(t, s, "unfinished")
		},
		func(t testing.TB, s *Store) {
			_, err := s.Prune(t.Context(), PruneOptions{Current: []string{"2.0"}, Keep: -1, Now: time.Now().Add(48 * time.Hour)})
			must(t, err)
		},
	},
	"remove": {jobPresent, func(t testing.TB, s *Store) {
		images, err := s.Images()
		must(t, err)
		_, err = s.Remove(t.Context(), images, nil, false)
		must(t, err)
	}},
	"sweep": {
		func(t testing.TB, s *Store) {
			jobPresent(t, s)
			bin := filepath.Join(s.tmp, binPrefix+"1")
			must(t, os.Mkdir(bin, 0o700))
			must(t, os.Rename(s.Folder(jobImage()), filepath.Join(bin, "old")))
			must(t, os.WriteFile(filepath.Join(s.leases, leasePrefix+"1"), nil, 0o644))
		},
		func(t testing.TB, s *Store) { must(t, s.Sweep(t.Context())) },
	},
}

// victim does a job until it is killed.
func victim(name, home, step string) int {
	if name == "hold lease" {
		return holdLease(home)
	}
	left, err := strconv.Atoi(step)
	if err != nil {
		return 3
	}
	s, err := Open(home)
	if err != nil {
		return 3
	}
	s.did = func(string, string) {
		if left--; left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	status := 2
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "job", F: func(t *testing.T) {
		jobs[name].run(t, s)
		status = 0
	}}}, nil, nil)
	return status
}

// holdLease leases the object until it is killed.
func holdLease(home string) int {
	s, err := Open(home)
	if err != nil {
		return 3
	}
	lease, err := s.Lease(context.Background(), "victim", []string{jobImage().Files[0].Key})
	if err != nil {
		return 3
	}
	fmt.Println("leased")
	<-time.After(time.Minute)
	_ = lease.Release()
	return 3
}

// killed runs a job in another process and tells whether it was killed before it
// was done.
func killed(t *testing.T, name, home string, step int) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.testlogfile=")
	cmd.Env = append(os.Environ(), "STORE_TEST_JOB="+name, "STORE_TEST_HOME="+home, "STORE_TEST_STEP="+strconv.Itoa(step))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s, stopped at %d: %v\n%s", name, step, err, out)
	}
	return true
}

// row is what the table says about a job.
type row struct {
	left   []string // besides what was there before and is there afterwards
	states []string // of the object
}

// TestCrashTable stops each job after each of its file operations, compares what
// is left with the table in the documentation, and lets the next run recover.
func TestCrashTable(t *testing.T) {
	table := crashTable(t)
	if got, want := slices.Sorted(maps.Keys(table)), slices.Sorted(maps.Keys(jobs)); !slices.Equal(got, want) {
		t.Errorf("the table has %q, the test %q", got, want)
	}
	for name, job := range jobs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := crashWalk(t, name, job)
			if want := table[name]; !slices.Equal(seen.left, want.left) || !slices.Equal(seen.states, want.states) {
				t.Errorf("the table says %q %q, found %s | %s", want.left, want.states, quoted(seen.left), strings.Join(seen.states, ", "))
			}
		})
	}
}

func quoted(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "`" + strings.Join(names, "` `") + "`"
}

func crashWalk(t *testing.T, name string, job job) row {
	left, states := map[string]bool{}, map[string]bool{}
	for step := 1; ; step++ {
		s := openInMemory(t)
		job.prepare(t, s)
		before := names(t, s)
		more := killed(t, name, s.home, step)
		if more {
			for path := range names(t, s) {
				left[path] = left[path] || !before[path]
			}
		}
		state := string(s.look(jobImage().Files[0].Key).State)
		states[state] = true
		recovers(t, s, fmt.Sprintf("%s, stopped after operation %d", name, step))
		if t.Failed() || !more {
			break
		}
		if step > 200 {
			t.Fatal("the job never ends")
		}
	}
	maps.DeleteFunc(left, func(_ string, is bool) bool { return !is })
	return row{slices.Sorted(maps.Keys(left)), slices.Sorted(maps.Keys(states))}
}

var (
	keyPattern    = regexp.MustCompile(`[0-9a-f]{64}`)
	numberPattern = regexp.MustCompile(`(meta-|bin-|copy-|lease-|KEY-)\d+`)
)

// names are the paths in tmp, leases and partial, the random parts left out, and
// of tmp only the first level.
func names(t *testing.T, s *Store) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, dir := range []string{s.tmp, s.leases, s.partials} {
		must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || path == dir {
				return err
			}
			name, err := filepath.Rel(filepath.Dir(s.tmp), path)
			name = numberPattern.ReplaceAllString(keyPattern.ReplaceAllString(name, "KEY"), "$1*")
			if !entry.IsDir() || dir == s.tmp {
				found[name] = true
			}
			if err == nil && entry.IsDir() && dir == s.tmp {
				return fs.SkipDir
			}
			return err
		}))
	}
	return found
}

// recovers is the next run: it finds nothing that is not what it says, cleans up,
// and has the image again without help.
func recovers(t *testing.T, s *Store, when string) {
	t.Helper()
	s, err := Open(s.home)
	must(t, err)
	must(t, s.Sweep(t.Context()))
	for _, dir := range []string{s.tmp, s.leases} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left in %s: %v, %v", when, dir, left, err)
		}
	}
	trueToItself(t, s, when)
	repair(t, s, newName, oldBytes)
	must(t, s.Show(t.Context(), jobImage()))
	trueToItself(t, s, when)
	p, err := s.Prune(t.Context(), PruneOptions{All: true, Keep: -1, Now: time.Now(), Holders: holding("sandbox", jobImage().Files[0].Key)})
	must(t, err)
	if object := s.look(jobImage().Files[0].Key); object.State != Ready || !s.isShown(jobImage()) {
		t.Errorf("%s: the image does not come back: %s, pruned %+v", when, object.State, p)
	}
	for _, dir := range []string{s.tmp, s.leases, s.partials} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: nobody ever removes from %s: %v, %v", when, dir, left, err)
		}
	}
}

// trueToItself checks that whatever counts as verified has the right bytes.
func trueToItself(t *testing.T, s *Store, when string) {
	t.Helper()
	objects, err := s.Objects(t.Context())
	must(t, err)
	for _, object := range objects {
		data, err := os.ReadFile(object.Path)
		if object.State == Ready && (err != nil || keyOf("content "+object.Origin.Name) != object.Origin.Content.SHA256 || int64(len(data)) != object.Origin.Content.Size) {
			t.Errorf("%s: %s is ready with %q, %v", when, object.Origin.Name, data, err)
		}
	}
	for _, v := range s.views() {
		for _, f := range v.Files {
			data, err := os.ReadFile(filepath.Join(s.Folder(v), f.Name))
			if err != nil || string(data) != oldBytes {
				t.Errorf("%s: %s shows %q, %v", when, v.Name(), data, err)
			}
		}
	}
}

// crashTable reads the table in the documentation.
func crashTable(t *testing.T) map[string]row {
	t.Helper()
	raw, err := os.ReadFile("../../docs/decisions/format-store.md")
	must(t, err)
	table := map[string]row{}
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 {
			continue
		}
		name := strings.TrimSpace(cells[1])
		if name == "operation" || strings.HasPrefix(name, "---") {
			continue
		}
		states := strings.FieldsFunc(cells[3], func(r rune) bool { return r == ' ' || r == ',' })
		left := strings.FieldsFunc(cells[2], func(r rune) bool { return r == ' ' || r == '`' })
		if strings.TrimSpace(cells[2]) == "nothing" {
			left = nil
		}
		table[name] = row{left, states}
	}
	return table
}

// TestSyncedBeforeRenamed reads the operations of every job: what is renamed into
// its place was synced before, and so is the folder afterwards. That is what a
// power cut asks for.
func TestSyncedBeforeRenamed(t *testing.T) {
	for name, job := range jobs {
		t.Run(name, func(t *testing.T) {
			s := openInMemory(t)
			job.prepare(t, s)
			log := &journal{dirty: map[string]bool{}, pending: map[string]bool{}}
			s.did = func(op, path string) { log.note(t, s, op, path) }
			job.run(t, s)
			for dir := range log.pending {
				if _, err := os.Lstat(dir); err != nil {
					continue // an emptied release: images was synced
				}
				t.Errorf("%s was never synced after a rename", dir)
			}
		})
	}
}

// journal follows which files and folders a power cut would change.
type journal struct {
	dirty   map[string]bool // written, not synced
	pending map[string]bool // folders with a rename that was not synced
}

func (j *journal) note(t *testing.T, s *Store, op, path string) {
	from, renamed := strings.CutPrefix(op, "rename ")
	switch {
	case op == "create" || op == "write" || op == "chmod" || op == "link":
		if strings.HasPrefix(path, s.home) && op != "link" {
			j.dirty[path] = true
		}
	case op == "sync":
		delete(j.dirty, path)
		delete(j.pending, path)
	case op == "remove all" || op == "remove":
		maps.DeleteFunc(j.dirty, func(file string, _ bool) bool { return file == path || strings.HasPrefix(file, path+"/") })
	case renamed && (strings.HasPrefix(path, s.objects) || strings.HasPrefix(path, s.images)):
		for file := range j.dirty {
			if file == from || strings.HasPrefix(file, from+"/") {
				t.Errorf("%s was renamed to %s before %s was synced", from, path, file)
			}
		}
		j.pending[filepath.Dir(path)] = true
	case renamed && (strings.HasPrefix(from, s.objects) || strings.HasPrefix(from, s.images)):
		j.pending[filepath.Dir(from)] = true
	}
}

// openInMemory makes a store where nothing waits for a disk, if it can.
func openInMemory(t testing.TB) *Store {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "store")
	if err != nil {
		return open(t)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := Open(dir)
	must(t, err)
	return s
}

// seize claims an object whatever its state.
func seize(t testing.TB, s *Store, key string) *Claim {
	t.Helper()
	claim, err := s.Seize(t.Context(), key, nil)
	must(t, err)
	return claim
}

// repair does what acquiring does: nothing with a Ready object, and a new one from
// whatever a partial holds otherwise.
func repair(t testing.TB, s *Store, name, content string) {
	t.Helper()
	index := "index of " + name
	claim, ready, err := s.Claim(t.Context(), keyOf(index), nil)
	must(t, err)
	if ready {
		return
	}
	file, err := claim.Partial()
	must(t, err)
	must(t, file.Truncate(int64(len(content))))
	_, err = file.WriteAt([]byte(content), 0)
	must(t, err)
	object, err := claim.Commit(t.Context(), origin(name, len(content)), []byte(index))
	must(t, err)
	must(t, claim.Release())
	if object.State != Ready {
		t.Fatalf("the repaired object is %s", object.State)
	}
}

func settleAs(t testing.TB, s *Store, name, content string) {
	t.Helper()
	claim := seize(t, s, keyOf("index of "+name))
	file, identity, err := claim.Open()
	must(t, err)
	must(t, file.Close())
	_, err = claim.Settle(t.Context(), origin(name, len(content)), identity)
	must(t, errors.Join(err, claim.Release()))
}

func keepArchive(t testing.TB, s *Store, name string) {
	t.Helper()
	claim := seize(t, s, keyOf("index of "+name))
	file, err := claim.Archive()
	must(t, err)
	_, err = file.WriteString("0123456789")
	must(t, err)
	must(t, errors.Join(claim.KeepArchive(t.Context()), claim.Release()))
}

// partialOf leaves a partial behind.
func partialOf(t testing.TB, s *Store, name string) string {
	t.Helper()
	key := keyOf("index of " + name)
	claim := seize(t, s, key)
	file, err := claim.Partial()
	must(t, err)
	_, err = file.WriteString("half")
	must(t, errors.Join(err, claim.Release()))
	return key
}

func unlinkable(s *Store) {
	s.link = func(string, string) error { return syscall.EPERM }
}

// holding is a holder of all these keys.
func holding(name string, keys ...string) func(ctx context.Context) ([]Holder, error) {
	return func(context.Context) ([]Holder, error) { return []Holder{{name, keys}}, nil }
}
