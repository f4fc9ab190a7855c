//go:build linux

package credential

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

const login = ".agent/deep/auth.json"

// newStore keeps credentials in a folder that stands for the tmpfs.
func newStore(t *testing.T) *Store {
	t.Helper()
	return &Store{
		Dir:   filepath.Join(t.TempDir(), "credentials"),
		Owner: setup.Account{Name: "agent", UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: t.TempDir()},
		Mount: func(string) error { return nil },
	}
}

func set(t *testing.T, s *Store, c wire.Credentials) []string {
	t.Helper()
	notes, err := s.Set(c)
	if err != nil {
		t.Fatal(err)
	}
	return notes
}

func TestGiveAndWithdraw(t *testing.T) {
	s := newStore(t)
	at := filepath.Join(s.Owner.Home, login)
	set(t, s, wire.Credentials{})
	if _, err := os.Stat(s.Dir); err == nil {
		t.Error("nothing was given, and memory is mounted")
	}
	set(t, s, wire.Credentials{
		Env: map[string]string{"KEY": "s3cret", "bad name": "x"}, Logins: []wire.LoginFile{{Path: login, Content: []byte("one")}},
	})
	if raw, err := os.ReadFile(at); string(raw) != "one" || err != nil {
		t.Errorf("the agent reads %q, %v", raw, err)
	}
	info, err := os.Stat(at)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if d := cmp.Diff(map[string]string{"KEY": "s3cret"}, s.Env()); d != "" {
		t.Error(d)
	}
	onDisk(t, s, "one", "s3cret")

	// An agent that renews its login in place, and one that follows the link.
	for _, text := range []string{"two", "three"} {
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := s.Logins(); len(got) != 1 || string(got[0].Content) != text {
			t.Errorf("the host reads %v", got)
		}
	}
	set(t, s, wire.Credentials{Env: map[string]string{"OTHER": "1"}})
	if _, err := os.Lstat(at); err == nil {
		t.Error("a login that is given no longer is still there")
	}
	if _, err := os.Stat(s.place(login)); err == nil {
		t.Error("it is still in memory")
	}
	if d := cmp.Diff(map[string]string{"OTHER": "1"}, s.Env()); d != "" || s.Logins() != nil {
		t.Error(d, s.Logins())
	}
}

// onDisk looks for secrets in the home folder itself.
func onDisk(t *testing.T, s *Store, secrets ...string) {
	t.Helper()
	err := filepath.WalkDir(s.Owner.Home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, secret := range secrets {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// At the next boot the link is there and memory is empty.
func TestNextBoot(t *testing.T) {
	s := newStore(t)
	given := wire.Credentials{Logins: []wire.LoginFile{{Path: login, Content: []byte("one")}}}
	set(t, s, given)
	boot := func() *Store {
		if err := os.RemoveAll(s.Dir); err != nil {
			t.Fatal(err)
		}
		return &Store{Dir: s.Dir, Owner: s.Owner, Mount: s.Mount}
	}
	set(t, boot(), wire.Credentials{Withdrawn: []string{login, "never/there", "../escape", ""}})
	if _, err := os.Lstat(filepath.Join(s.Owner.Home, login)); err == nil {
		t.Error("a link to nowhere is left: the agent could not log in")
	}
	set(t, boot(), given)
	set(t, boot(), given)
	if raw, _ := os.ReadFile(filepath.Join(s.Owner.Home, login)); string(raw) != "one" {
		t.Errorf("given again, it is %q", raw)
	}
}

// A login that the sandbox has of its own stays.
func TestOwnLogin(t *testing.T) {
	for name, plant := range map[string]func(at string) error{
		"file":   func(at string) error { return os.WriteFile(at, []byte("own"), 0o600) },
		"link":   func(at string) error { return os.Symlink("/etc/passwd", at) },
		"folder": func(at string) error { return os.Mkdir(at, 0o700) },
		"fifo":   func(at string) error { return syscall.Mkfifo(at, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			at := filepath.Join(s.Owner.Home, login)
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := plant(at); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(at)
			notes := set(t, s, wire.Credentials{Logins: []wire.LoginFile{{Path: login, Content: []byte("mine")}}})
			after, err := os.Lstat(at)
			if err != nil || !os.SameFile(before, after) || len(notes) != 1 || !strings.Contains(notes[0], "its own") {
				t.Errorf("%v, %v, notes %q", after, err, notes)
			}
			if got := s.Logins(); got != nil {
				t.Errorf("it is offered to the host: %v", got)
			}
		})
	}
}

// A sandbox's user who plants links leads nobody out of the home folder.
func TestHostileHome(t *testing.T) {
	s := newStore(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(s.Owner.Home, ".agent")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Set(wire.Credentials{Logins: []wire.LoginFile{{Path: login, Content: []byte("one")}}}); err == nil {
		t.Error("a parent that leads outside is followed")
	}
	for _, path := range []string{"../x", "/etc/x", ".", "a/../b", ""} {
		if _, err := s.Set(wire.Credentials{Logins: []wire.LoginFile{{Path: path, Content: []byte("one")}}}); err == nil {
			t.Errorf("path %q is accepted", path)
		}
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside there is %v", left)
	}
}

// What the user puts in the place of the files in memory neither blocks nor leads
// elsewhere.
func TestHostileMemory(t *testing.T) {
	for name, plant := range map[string]func(at string) error{
		"fifo":   func(at string) error { return syscall.Mkfifo(at, 0o600) },
		"link":   func(at string) error { return os.Symlink("/etc/passwd", at) },
		"folder": func(at string) error { return os.Mkdir(at, 0o700) },
		"huge":   func(at string) error { return os.WriteFile(at, make([]byte, maxFile+1), 0o600) },
		"gone":   func(string) error { return nil },
		"text":   func(at string) error { return os.WriteFile(at, []byte("{"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			given := wire.Credentials{Env: map[string]string{"A": "1"}, Logins: []wire.LoginFile{{Path: login, Content: []byte("one")}}}
			set(t, s, given)
			for _, at := range []string{filepath.Join(s.Dir, envFile), s.place(login)} {
				if err := os.Remove(at); err != nil {
					t.Fatal(err)
				}
				if err := plant(at); err != nil {
					t.Fatal(err)
				}
			}
			if env := s.Env(); len(env) > 0 {
				t.Errorf("variables %v", env)
			}
			if got := s.Logins(); got != nil && name != "text" {
				t.Errorf("login files %v", got)
			}
			if _, err := s.Set(given); err != nil && name != "folder" {
				t.Errorf("give again: %v", err)
			}
		})
	}
}

// TestGitTrusts has git itself work in a repository of another user.
func TestGitTrusts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a repository of another user")
	}
	dir := t.TempDir()
	settings := filepath.Join(dir, "gitconfig")
	git := func(args ...string) error {
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_SYSTEM=" + settings}
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}
	if err := errors.Join(git("init", "-q"), os.Chown(dir, 1000, 1000), os.Chown(filepath.Join(dir, ".git"), 1000, 1000)); err != nil {
		t.Skip(err)
	}
	if err := git("status"); err == nil {
		t.Skip("this git trusts everybody")
	}
	if err := WriteGit(settings, nil); err != nil {
		t.Fatal(err)
	}
	if err := git("status"); err != nil {
		t.Error(err)
	}
}

func TestWriteGit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gitconfig")
	write := func(who *wire.GitIdentity) string {
		if err := WriteGit(path, who); err != nil {
			t.Fatal(err)
		}
		raw, _ := os.ReadFile(path)
		return string(raw)
	}
	if got := write(nil); got != gitMark+gitTrust {
		t.Errorf("nobody commits: %q", got)
	}
	got := write(&wire.GitIdentity{Name: "Zoë \"Z\" \\ X\n[core]", Email: "z@example.org"})
	if want := gitMark + gitTrust + "[user]\n\tname = \"Zoë \\\"Z\\\" \\\\ X[core]\"\n\temail = \"z@example.org\"\n"; got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
	if got := write(nil); got != gitMark+gitTrust {
		t.Errorf("somebody still commits: %q", got)
	}
	if err := os.WriteFile(path, []byte("[user]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := write(&wire.GitIdentity{Name: "a", Email: "b"}); got != "[user]\n" {
		t.Errorf("the user's own file became %q", got)
	}
}
