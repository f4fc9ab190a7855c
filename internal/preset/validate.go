package preset

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of a preset. They are far above what any agent needs and far below
// what would hurt.
const (
	maxWord    = 31       // a name or alias, in characters
	maxText    = 200      // one line for people
	maxList    = 64       // entries of any list
	maxArg     = 4 << 10  // one argument, in bytes
	maxScript  = 64 << 10 // one step's script, in bytes
	maxContent = 1 << 20  // one file's contents, in bytes
	maxCPUs    = 256
	maxLimit   = 24 * time.Hour // of one step

	minMemoryMiB = 128
	maxMemoryMiB = 4 << 20 // 4 TiB
	minDiskMiB   = 64
	maxDiskMiB   = 8 << 20 // 8 TiB
)

// reserved are the words that the command line uses itself, now or by its
// documented plan, and the base layer's name.
var reserved = []string{
	"attach", "base", "bug-report", "completion", "config", "cp", "delete", "doctor", "env", "exec", "fork", "help",
	"image", "info", "list", "logs", "network", "port", "preset", "prune", "rename", "resize", "snapshot", "ssh",
	"ssh-config", "start", "stop", "supervise", "top", "update", "version",
}

// Words are all that a user can call the preset.
func (p Preset) Words() []string { return append([]string{p.Name}, p.Aliases...) }

// Validate tells what is wrong with a preset, all of it, or nil.
func (p Preset) Validate() error {
	return errors.Join(
		checkWords(p),
		within("summary", checkLine(p.Summary)),
		within("agent.name", checkLine(p.Agent.Name)),
		within("agent.version", checkVersion(p.Agent.Version)),
		within("agent.check", checkCommand(p.Agent.Check)),
		within("launch", checkCommand(p.Launch)),
		within("ask", checkOptionalCommand(p.Ask)),
		within("arguments", checkOptionalCommand(p.Arguments)),
		within("environment", checkEnvironment(p.Environment)),
		within("credentials", checkCredentials(p.Credentials, p.Environment)),
		within("logins", checkLogins(p.Logins)),
		within("reaches", checkReaches(p.Reaches)),
		within("ports", checkPorts(p.Ports)),
		within("services", checkServices(p.Services, p.Ports)),
		within("page", p.Page.check(p.Ports)),
		within("resources", checkResources(p.Resources)),
		within("recipe", p.Recipe.check(p.Agent.Version)),
	)
}

func within(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// checkWords checks the words that become commands and parts of file names.
func checkWords(p Preset) error {
	if err := distinct(p.Words()); err != nil {
		return within("aliases", err)
	}
	for i, word := range p.Words() {
		field := "name"
		if i > 0 {
			field = "aliases"
		}
		switch {
		case !isWord(word):
			return fmt.Errorf("%s: %q does not consist of 1 to %d characters a-z, 0-9 and '-', beginning with a letter", field, word, maxWord)
		case slices.Contains(reserved, word):
			return fmt.Errorf("%s: %q is a command of smolvm", field, word)
		}
	}
	return nil
}

// IsWord tells whether a preset can have that name.
func IsWord(s string) bool { return isWord(s) }

func isWord(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '-')) {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= maxWord
}

// checkLine accepts one line of text that a terminal shows as it is.
func checkLine(s string) error {
	if strings.TrimSpace(s) == "" {
		return errors.New("is missing")
	}
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxText || strings.ContainsFunc(s, unprintable) {
		return fmt.Errorf("%.40q is not one line of at most %d printable characters", s, maxText)
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// checkVersion accepts one exact version: no range, no tag that moves.
func checkVersion(s string) error {
	exact := len(s) <= maxText && s != "" && s[0] >= '0' && s[0] <= '9' && strings.Trim(s, versionChars) == ""
	for part := range strings.SplitSeq(s, ".") {
		exact = exact && part != "" && part != "x" && part != "X"
	}
	if !exact {
		return fmt.Errorf("%.40q is not an exact version such as 1.2.3", s)
	}
	return nil
}

const versionChars = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.+-_"

func checkCommand(argv []string) error {
	if len(argv) == 0 || argv[0] == "" {
		return errors.New("is missing")
	}
	return checkOptionalCommand(argv)
}

func checkOptionalCommand(argv []string) error {
	if len(argv) > maxList {
		return fmt.Errorf("has %d arguments, at most %d are possible", len(argv), maxList)
	}
	for _, arg := range argv {
		if len(arg) > maxArg || !plainText(arg) {
			return fmt.Errorf("argument %.40q is too long or not text", arg)
		}
	}
	return nil
}

// plainText tells whether s can be an argument, a script or a text file.
func plainText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

func checkEnvironment(names []string) error {
	if err := distinct(names); err != nil {
		return err
	}
	for _, name := range names {
		if !isVariable(name) {
			return fmt.Errorf("%.40q is not the name of a variable (values never belong here)", name)
		}
	}
	return nil
}

func isVariable(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxText
}

func checkPorts(ports []int) error {
	if err := distinct(ports); err != nil {
		return err
	}
	for _, port := range ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%d is not a port from 1 to 65535", port)
		}
	}
	return nil
}

func checkResources(r Resources) error {
	return errors.Join(
		between("cpus", int64(r.CPUs), 0, maxCPUs),
		between("memory_mib", r.MemoryMiB, minMemoryMiB, maxMemoryMiB),
		between("disk_mib", r.DiskMiB, minDiskMiB, maxDiskMiB),
	)
}

func between(field string, value, least, most int64) error {
	if value < least || value > most {
		return fmt.Errorf("%s: %d is not between %d and %d", field, value, least, most)
	}
	return nil
}

// check checks the steps and files. Some step has to name the version: else it
// installs whatever is newest on the day of the build.
func (r Recipe) check(version string) error {
	if len(r.Steps) < 1 || len(r.Steps) > maxList || len(r.Files) > maxList || len(r.Locks) > maxList {
		return fmt.Errorf("has %d steps, %d files and %d locks; 1 to %d steps and at most %d of the others are possible",
			len(r.Steps), len(r.Files), len(r.Locks), maxList, maxList)
	}
	var errs []error
	var names, paths []string
	pinned := false
	for i, s := range r.Steps {
		errs = append(errs, within(fmt.Sprintf("step %d", i+1), s.check()))
		names = append(names, s.Name)
		pinned = pinned || strings.Contains(s.Run, version)
	}
	for i, f := range r.Files {
		errs = append(errs, within(fmt.Sprintf("file %d", i+1), f.check()))
		paths = append(paths, f.Path)
	}
	var locks []string
	for i, l := range r.Locks {
		errs = append(errs, within(fmt.Sprintf("lock %d", i+1), l.check()))
		locks = append(locks, l.File)
	}
	if !pinned {
		errs = append(errs, fmt.Errorf("no step names version %.40q, so nothing pins it", version))
	}
	return errors.Join(append(errs, distinct(names), distinct(paths), distinct(locks))...)
}

func (s Step) check() error {
	if err := checkLine(s.Name); err != nil {
		return within("name", err)
	}
	if err := checkOwner(s.User); err != nil {
		return within("user", err)
	}
	if strings.TrimSpace(s.Run) == "" || len(s.Run) > maxScript || !plainText(s.Run) {
		return fmt.Errorf("run: is missing, longer than %d bytes, or not text", maxScript)
	}
	if d, err := time.ParseDuration(s.Limit); s.Limit != "" && (err != nil || d < time.Second || d > maxLimit) {
		return fmt.Errorf("limit: %.40q is not a time between 1s and %s, such as 10m", s.Limit, maxLimit)
	}
	return nil
}

func (f File) check() error {
	if !cleanPath(f.Path) {
		return fmt.Errorf("path: %.80q is not a clean absolute path of the image", f.Path)
	}
	if err := checkOwner(f.Owner); err != nil {
		return within("owner", err)
	}
	if mode, err := strconv.ParseUint(f.Mode, 8, 32); f.Mode != "" && (err != nil || mode > 0o777) {
		return fmt.Errorf("mode: %.40q is not an octal mode from 0000 to 0777", f.Mode)
	}
	if len(f.Content) > maxContent || !plainText(f.Content) {
		return fmt.Errorf("content: is longer than %d bytes or not text", maxContent)
	}
	return nil
}

func (l Lock) check() error {
	// Such a name needs no quotes in a shell.
	if !fs.ValidPath(l.File) || l.File == "." || len(l.File) > maxText || strings.Trim(l.File, versionChars+"/") != "" {
		return fmt.Errorf("file: %.80q is not a clean path below the recipes' folder", l.File)
	}
	if len(l.SHA256) != 64 || strings.Trim(l.SHA256, "0123456789abcdef") != "" {
		return fmt.Errorf("sha256: %.80q is not a SHA-256 digest in lower-case hexadecimal", l.SHA256)
	}
	return nil
}

// volatile are the folders of a running system that no layer keeps.
var volatile = []string{"/dev", "/proc", "/run", "/sys", "/tmp"}

func cleanPath(p string) bool {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) > maxArg || !plainText(p) || strings.ContainsFunc(p, unicode.IsControl) {
		return false
	}
	return !slices.ContainsFunc(volatile, func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") })
}

func checkOwner(user string) error {
	if user != "" && user != "root" && user != "agent" {
		return fmt.Errorf("%.40q is neither root nor agent", user)
	}
	return nil
}

// distinct refuses lists that are too long or repeat an entry.
func distinct[T comparable](list []T) error {
	if len(list) > maxList {
		return fmt.Errorf("has %d entries, at most %d are possible", len(list), maxList)
	}
	for i, v := range list {
		if slices.Contains(list[:i], v) {
			return fmt.Errorf("%v is there twice", v)
		}
	}
	return nil
}
