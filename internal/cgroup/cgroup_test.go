package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
)

// self is the process whose group is looked for in made-up trees.
const self = 4711

// tree is what a made-up kernel shows: contents of files by their path below the root.
type tree map[string]string

// system writes the tree below a folder of the caller's.
func (files tree) system(t *testing.T) System {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return System{Root: root, UID: os.Getuid(), User: "ana", PID: self}
}

// in is a tree whose process is in a group, below the unified mount.
func in(group string, more tree) tree {
	files := tree{members: "0::" + group + "\n", mount + "/" + available: "cpuset cpu io memory pids\n"}
	for name, text := range more {
		files[name] = text
	}
	return files
}

// group are the files of one.
func group(name, controllers string, pids ...string) tree {
	dir := mount + name + "/"
	return tree{dir + available: controllers + "\n", dir + processes: strings.Join(append(pids, ""), "\n"), dir + enabled: "\n"}
}

func join(all ...tree) tree {
	files := tree{}
	for _, one := range all {
		for name, text := range one {
			files[name] = text
		}
	}
	return files
}

// unprivileged gives the tree to a user: root is given nothing.
func unprivileged(t *testing.T, s System) System {
	t.Helper()
	if os.Getuid() != 0 {
		return s
	}
	s.UID = 65534
	err := filepath.WalkDir(s.Root, func(name string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Chown(name, s.UID, s.UID)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFind(t *testing.T) {
	const managed = "/user.slice/user-UID.slice/user@UID.service/app.slice/run-1.scope"
	for _, c := range []struct {
		name        string
		files       tree
		base        string // found; empty: refused
		inside      bool
		controllers []string
		why         string
	}{
		{"given to it alone", in("/given", group("/given", "cpu memory pids", "4711")), "/given", true, []string{memory, pids, cpu}, ""},
		{"no controller for processors", in("/given", group("/given", "memory io pids", "4711")), "/given", true, []string{memory, pids}, ""},
		{"none of the controllers", in("/given", group("/given", "cpuset io", "4711")), "", false, nil, "none of the controllers"},
		{"with others", in("/given", group("/given", "cpu memory pids", "1", "4711")), "", false, nil, "other processes"},
		{
			"with others below one of its own", in("/given/login", join(group("/given", "memory pids"), group("/given/login", "memory pids", "1", "4711"))),
			"/given", false,
			[]string{memory, pids},
			"",
		},
		{"scope of the user's systemd", in(managed, group(managed, "cpu memory pids", "4711")), managed, true, []string{memory, pids, cpu}, ""},
		{
			"systemd's own groups are left alone", in(managed, join(group(managed, "memory pids", "1", "4711"), group(filepath.Dir(managed), "memory pids"))),
			"", false, nil, "other processes",
		},
		{"root of what it sees", in("/", group("", "cpu memory pids", "4711")), "", false, nil, "root of the control groups"},
		{"outside of what it sees", in("/../other", nil), "", false, nil, "not within"},
		{"folder is gone", in("/gone (deleted)", nil), "", false, nil, "no such file"},
		{"version 1", tree{members: "4:memory:/x\n1:cpu:/\n"}, "", false, nil, "version 2"},
		{"hybrid", tree{members: "4:memory:/x\n0::/x\n", mount + "/unified/" + available: "\n", mount + "/unified/x/" + processes: "4711\n"}, "", false, nil, "version 1"},
		{"unified beside nothing of it", tree{members: "4:memory:/x\n", mount + "/" + available: "\n"}, "", false, nil, "no control group of version 2"},
		{"no proc", tree{"x": ""}, "", false, nil, "no control groups"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := tree{}
			s := System{UID: os.Getuid()}
			if s.UID == 0 {
				s.UID = 65534
			}
			uid := strings.TrimSuffix(strings.TrimPrefix(s.manager(), "user@"), ".service")
			for name, text := range c.files {
				files[strings.ReplaceAll(name, "UID", uid)] = strings.ReplaceAll(text, "UID", uid)
			}
			b, err := unprivileged(t, files.system(t)).Find()
			if c.base == "" {
				if err == nil || !strings.Contains(err.Error(), c.why) || fault.CodeOf(err) != fault.Host {
					t.Errorf("found %+v, %v; want %q", b, err, c.why)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(b.dir, strings.ReplaceAll(c.base, "UID", uid)) || b.inside != c.inside || !slices.Equal(b.Controllers, c.controllers) {
				t.Errorf("found %+v", b)
			}
		})
	}
}

// TestFindOfOthers: a group of which one file belongs to somebody else was not given.
func TestFindOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	for _, name := range []string{"", processes, enabled} {
		s := unprivileged(t, in("/given", group("/given", "memory pids", "4711")).system(t))
		if err := os.Chown(filepath.Join(s.Root, mount, "given", name), 0, 0); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Find(); err == nil || !strings.Contains(err.Error(), "not given") || !strings.Contains(fault.HintOf(err), "enable-linger") {
			t.Errorf("%q is root's: %+v, %v", name, b, err)
		}
	}
}

// TestFindOfAnother: nothing is looked for as somebody who is not there.
func TestFindOfAnother(t *testing.T) {
	s := in("/given", group("/given", "memory pids", "4711")).system(t)
	s.UID = 4242
	if b, err := s.Find(); err == nil {
		t.Errorf("found %+v of another user", b)
	}
	s.UID = 0
	if b, err := s.Find(); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("root was given %+v, %v", b, err)
	}
	if b, err := (System{}).Find(); err == nil {
		t.Errorf("found %+v without a place to look", b)
	}
}

func TestScoped(t *testing.T) {
	const below = "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope"
	const login = "/user.slice/user-1000.slice/session-3.scope"
	lingers := tree{linger + "/ana": ""}
	for name, c := range map[string]struct {
		files  tree
		scoped bool
	}{
		"terminal of a desktop":         {in(below, nil), true},
		"ssh":                           {in(login, nil), false},
		"ssh of one who lingers":        {in(login, lingers), true},
		"ssh of another who lingers":    {in(login, tree{linger + "/eve": ""}), false},
		"below the systemd of another":  {in(strings.ReplaceAll(below, "1000", "1001"), nil), false},
		"service of the system":         {in("/system.slice/x.service", nil), false},
		"version 1 of one who lingers":  {join(tree{members: "1:cpu:/\n"}, lingers), false},
		"no such system":                {nil, false},
		"name that only looks like one": {in("/system.slice/my-user@1000.service", nil), false},
	} {
		s := c.files.system(t)
		s.UID = 1000
		if s.Scoped() != c.scoped {
			t.Errorf("%s: %v", name, s.Scoped())
		}
	}
}

func TestLook(t *testing.T) {
	const manager = "/user.slice/user-1000.slice/user@1000.service"
	look := func(files tree) Outlook {
		s := files.system(t)
		s.UID = 1000
		return s.Look()
	}
	if o := look(in(manager+"/x.scope", group(manager, "memory pids"))); !o.Scoped || !slices.Equal(o.Controllers, []string{memory, pids}) || o.Why != nil {
		t.Errorf("below systemd: %+v", o)
	}
	if o := look(in(manager+"/x.scope", group(manager, ""))); o.Why == nil || len(o.Controllers) > 0 {
		t.Errorf("below a systemd without controllers: %+v", o)
	}
	if o := look(in("/user.slice/user-1000.slice/session-3.scope", group("/user.slice/user-1000.slice/session-3.scope", "memory", "4711"))); o.Scoped || o.Why == nil {
		t.Errorf("ssh: %+v", o)
	}
	s := unprivileged(t, in("/given/login", join(group("/given", "cpu memory pids"), group("/given/login", "cpu memory pids", "4711"))).system(t))
	if o := s.Look(); o.Scoped || o.Why != nil || len(Missing(o.Controllers)) > 0 {
		t.Errorf("given: %+v", o)
	}
}

func TestMissing(t *testing.T) {
	if got := Missing([]string{pids}); !slices.Equal(got, []string{memory, cpu}) {
		t.Errorf("without pids %q are missing", got)
	}
	b := &Base{Controllers: []string{memory}}
	if got := b.Within(Limits{Memory: 1, Processes: 2, CPUs: 3}); got != (Limits{Memory: 1}) {
		t.Errorf("memory alone allows %+v", got)
	}
}

func TestCount(t *testing.T) {
	text := []byte("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n")
	for event, want := range map[string]int{"oom": 3, "oom_kill": 2, "none": 0} {
		if got := count(text, event); got != want {
			t.Errorf("%s: %d", event, got)
		}
	}
}
