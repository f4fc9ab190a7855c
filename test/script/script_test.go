// Package script_test runs the command line as users do: every file of testdata
// is a script of commands with what they must print and how they must end.
//
// The programs run in processes of their own, made of this test binary, with a
// home and an environment of their own. What is real: everything down to the
// download, the verification and the cache. What is not there: a VMM. A script
// that gets past every check finds a program in its place that only notes that
// it was started.
package script_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/cli"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

func TestMain(m *testing.M) {
	testscript.Main(cleaned{m}, map[string]func(){"smolvm": smolvm})
}

// cleaned removes what all scripts shared.
type cleaned struct{ m *testing.M }

func (c cleaned) Run() int {
	defer func() {
		if made, err := published(); err == nil {
			_ = os.RemoveAll(made.Dir)
		}
	}()
	return c.m.Run()
}

// smolvm is cmd/smolvm with a guest agent that is only a few bytes.
func smolvm() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	signal.Ignore(syscall.SIGXFSZ)
	app := cli.New(cli.Outside{
		Streams: ui.NewStreams(os.Stdin, os.Stdout, os.Stderr, os.Getenv),
		Environ: os.Environ(), UserHome: os.Getenv("HOME"), Self: self, Presets: images.Files(),
		Signals: signals, Now: time.Now, Rand: rand.Reader,
	}, cli.Build{Version: "0.1.0", Commit: "0123456", Agent: func(arch string) ([]byte, error) {
		if arch != "amd64" {
			return nil, errors.New("not built in")
		}
		return []byte("agent"), nil
	}, AgentDigest: func(arch string) (string, error) {
		if arch != "amd64" {
			return "", errors.New("not built in")
		}
		return strings.Repeat("ab", 32), nil
	}})
	os.Exit(app.Main(os.Args[1:]))
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"publish":  publish,
			"fault":    fault,
			"requests": requests,
			"emulator": emulator,
			"sandbox":  sandbox,
			"cached":   cached,
			"await":    await,
			"empty":    empty,
			"shell":    shell,
		},
	})
}

// setup gives a script a home, and only our own programs on its PATH.
func setup(env *testscript.Env) error {
	bin, _, _ := strings.Cut(env.Getenv("PATH"), string(filepath.ListSeparator))
	env.Setenv("PATH", bin)
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("SMOLVM_HOME", filepath.Join(env.WorkDir, "state"))
	env.Setenv("TERM", "dumb")
	env.Values[siteKey{}] = &site{}
	return os.Mkdir(filepath.Join(env.WorkDir, "home"), 0o755)
}

// condition knows root, for which permissions mean nothing.
func condition(name string) (bool, error) {
	if name == "root" {
		return os.Getuid() == 0, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// published is one catalogue for all scripts; each gets a copy.
var published = sync.OnceValues(func() (*catalogue.Catalogue, error) {
	dir, err := os.MkdirTemp("", "smolvm-script-")
	if err != nil {
		return nil, err
	}
	return catalogue.Make(context.Background(), dir, time.Now())
})

// siteKey finds the script's site among its values.
type siteKey struct{}

// site is the server of one script, and what it serves; empty before publish.
type site struct {
	server *faulty.Server
	made   catalogue.Catalogue
}

// file is the published name of an asset's archive or index, or the name itself.
func (s *site) file(name string) string {
	row := s.made.Manifest.Rows[0]
	for _, asset := range append([]manifest.Asset{row.Kernel.Image, *row.Kernel.Modules}, row.Layers...) {
		switch name {
		case asset.Name:
			return asset.Archive.File
		case asset.Name + ".index":
			return asset.Index.File
		}
	}
	return name
}

// publish [how] serves a catalogue and sets SMOLVM_MANIFEST and KEY. How is one
// of: unsigned, other-key, expired, serial=N, only=PRESET.
func publish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: publish [how]")
	}
	shared, err := published()
	ts.Check(err)
	current := ts.Value(siteKey{}).(*site)
	if current.server == nil {
		serve(ts, current, shared)
	}
	if len(args) == 1 {
		ts.Check(alter(&current.made, args[0]))
	}
	key := filepath.Join(ts.Getenv("WORK"), "key.pub")
	ts.Check(os.WriteFile(key, []byte(shared.PublicKey+"\n"), 0o644))
	ts.Setenv("KEY", key)
}

func serve(ts *testscript.TestScript, s *site, shared *catalogue.Catalogue) {
	made := *shared
	made.Manifest.Rows = slices.Clone(shared.Manifest.Rows)
	made.Dir = filepath.Join(ts.Getenv("WORK"), "published")
	made.Address = filepath.Join(made.Dir, "manifest.json")
	ts.Check(os.CopyFS(made.Dir, os.DirFS(shared.Dir)))
	s.server, s.made = faulty.New(made.Dir), made
	address, stop := s.server.Listen()
	ts.Defer(stop)
	ts.Setenv("SMOLVM_MANIFEST", address+"/manifest.json")
}

// alter publishes once more, in another way.
func alter(made *catalogue.Catalogue, how string) error {
	word, value, _ := strings.Cut(how, "=")
	switch word {
	case "unsigned":
		return removeSignatures(made.Dir)
	case "other-key":
		private, _, err := trust.NewKey(rand.Reader)
		if err != nil {
			return err
		}
		signature, _, err := trust.Sign([]byte("something else"), private)
		if err != nil {
			return err
		}
		id, err := trust.KeyID(made.PublicKey)
		if err != nil {
			return err
		}
		return os.WriteFile(trust.SignatureFile(made.Address, id), signature, 0o644)
	case "expired":
		made.Manifest.Created = time.Now().Add(-48 * time.Hour).UTC().Truncate(time.Second)
		made.Manifest.Expires = time.Now().Add(-24 * time.Hour).UTC().Truncate(time.Second)
	case "serial":
		serial, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return err
		}
		made.Manifest.Serial = serial
	case "only":
		for i := range made.Manifest.Rows {
			made.Manifest.Rows[i].Preset = value
		}
	default:
		return fmt.Errorf("unknown way to publish: %s", how)
	}
	return made.Publish()
}

func removeSignatures(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.minisig"))
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

func theSite(ts *testscript.TestScript) *site {
	s := ts.Value(siteKey{}).(*site)
	if s.server == nil {
		ts.Fatalf("publish comes first")
	}
	return s
}

// fault ASSET|FILE none|flip|cut|shorten|html|gone [N] spoils the answers for a file.
func fault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fault FILE KIND [N]")
	}
	s := theSite(ts)
	at := int64(1)
	if len(args) > 2 {
		var err error
		at, err = strconv.ParseInt(args[2], 10, 64)
		ts.Check(err)
	}
	faults := map[string]faulty.Fault{
		"none":    {},
		"flip":    {Flip: at},
		"cut":     {Stop: faulty.Cut, After: at},
		"shorten": {Stop: faulty.Shorten, After: at, Chunked: true},
		"html":    {Body: []byte("<!DOCTYPE html><html><body>Log in</body></html>"), Header: map[string][]string{"Content-Type": {"text/html"}}},
		"json":    {Body: []byte(`{"schema":1,"rows":[`)},
		"gone":    {Status: 404, Body: []byte("no")},
	}
	f, known := faults[args[1]]
	if !known {
		ts.Fatalf("unknown fault %s", args[1])
	}
	s.server.Set(s.file(args[0]), f)
}

// requests ASSET|FILE N compares how often a file was asked for.
func requests(ts *testscript.TestScript, neg bool, args []string) {
	s := theSite(ts)
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	if got := s.server.Requests(s.file(args[0])); (got == want) == neg {
		ts.Fatalf("%s was asked for %d times", args[0], got)
	}
}

// emulator [hang] puts programs in QEMU's place that note in the file "booted"
// that they were started, and fail, or never do anything.
func emulator(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.Getenv("WORK"), "emulator")
	ts.Check(os.MkdirAll(dir, 0o755))
	then := "echo stub: no machine here >&2\nexit 1\n"
	if len(args) > 0 && args[0] == "hang" {
		then = "exec /bin/sleep 600\n"
	}
	script := "#!/bin/sh\necho \"$$ $0\" >>'" + filepath.Join(ts.Getenv("WORK"), "booted") + "'\n" + then
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64"} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	ts.Setenv("PATH", dir+string(filepath.ListSeparator)+ts.Getenv("PATH"))
}

// patience bounds what scripts wait for.
const patience = 30 * time.Second

// await waits until a file is there, or with gone until every process that is
// noted in it has ended.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await FILE [gone]")
	}
	path := ts.MkAbs(args[0])
	there := func() bool { _, err := os.Stat(path); return err == nil }
	if len(args) > 1 && args[1] == "gone" {
		there = func() bool { return ended(ts.ReadFile(path)) }
	}
	for deadline := time.Now().Add(patience); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain: await %v", args)
		}
	}
}

// ended reports whether the processes that lines begin with have all ended.
func ended(lines string) bool {
	for line := range strings.Lines(lines) {
		number, _, _ := strings.Cut(line, " ")
		pid, err := strconv.Atoi(number)
		if err != nil || syscall.Kill(pid, 0) == nil {
			return false
		}
	}
	return true
}

// sandbox NAME makes a sandbox that is stopped and whose disks are missing.
func sandbox(ts *testscript.TestScript, _ bool, args []string) {
	book, err := record.Open(ts.Getenv("SMOLVM_HOME"))
	ts.Check(err)
	lock, err := book.Create(args[0])
	ts.Check(err)
	ts.Check(book.Write(record.Record{
		Name: args[0], ID: "id-" + args[0], Preset: "claude-code", Arch: "amd64", VMM: "qemu", Accel: "tcg",
		Agent: record.Agent{Name: "Claude Code", Version: "1.2.3"}, Launch: []string{"claude"},
		Image: record.Image{Release: "1.0.0", Kernel: "/k", KernelVersion: "6.12.0-test", StandIn: "nobody"},
		CPUs:  1, MemoryMiB: 1024, DiskBytes: 8 << 30, Mode: wire.ModeRun, State: record.Created,
		Created: time.Now().Add(-2 * time.Hour),
	}))
	ts.Check(os.WriteFile(book.Folder(args[0]).Console(), []byte("boot line\n\x1b[31mred\x1b[0m line\n"), 0o600))
	ts.Check(lock.Release())
}

// cached fails when a file in the cache is left over or half done; ! cached
// when the cache holds an expanded file.
func cached(ts *testscript.TestScript, neg bool, _ []string) {
	store := filepath.Join(ts.Getenv("SMOLVM_HOME"), "store")
	var contents, temporary []string
	err := filepath.WalkDir(store, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || entry.IsDir():
		case strings.HasPrefix(path, filepath.Join(store, "tmp")):
			temporary = append(temporary, path)
		case entry.Name() == "content":
			contents = append(contents, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	if len(temporary) > 0 {
		ts.Fatalf("left over: %v", temporary)
	}
	if neg != (len(contents) == 0) {
		ts.Fatalf("the cache holds %v", contents)
	}
}

// empty DIR... fails when a folder of the state has anything in it but its own lock.
func empty(ts *testscript.TestScript, neg bool, args []string) {
	for _, dir := range args {
		entries, err := os.ReadDir(filepath.Join(ts.Getenv("SMOLVM_HOME"), dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ".gate" })
		if (len(entries) == 0) == neg {
			ts.Fatalf("%s holds %v", dir, entries)
		}
	}
}

// shell LINE runs a line in a shell, for limits that have to be set around a
// program: the scripts' own PATH has no shell.
func shell(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("/bin/sh", "-c", strings.Join(args, " "))
	if (err == nil) == neg {
		ts.Fatalf("shell: %v", err)
	}
}
