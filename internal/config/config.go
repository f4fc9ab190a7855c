// Package config turns the surroundings of the program into values: the
// environment's SMOLVM_ variables, SMOLVM_HOME/config.toml, sizes as people write
// them, the host's extra certificate authorities, and the files that describe
// presets.
//
// Inputs are the environment and file contents, outputs are checked values; a
// value that cannot be honoured is refused, never ignored. It reads the host's
// certificate files. What it keeps on disk is config.toml, replaced as a whole:
// a crash leaves the old file or the new one, and at most a temporary file.
package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

// The variables that SmolVM reads. Any other SMOLVM_ name is refused: it is
// most likely misspelt.
const (
	envHome         = "SMOLVM_HOME"
	envManifest     = "SMOLVM_MANIFEST"
	envBackend      = "SMOLVM_BACKEND"
	envUsePublished = "SMOLVM_USE_PUBLISHED"
	envBuildCache   = "SMOLVM_BUILD_CACHE"
	envCPUs         = "SMOLVM_CPUS"
	envIdleStop     = "SMOLVM_IDLE_STOP"
	envMemory       = "SMOLVM_MEMORY"
	envDisk         = "SMOLVM_DISK"
	envFirecracker  = "SMOLVM_FIRECRACKER"

	envPrefix = "SMOLVM_"
)

var known = []string{envBackend, envBuildCache, envCPUs, envDisk, envFirecracker, envHome, envIdleStop, envManifest, envMemory, envUsePublished}

// The names of the VMMs. Whether one can be used here is not for this room to say.
const (
	QEMU        = "qemu"
	Firecracker = "firecracker"
)

// Config is the surroundings of one run.
type Config struct {
	Home     string // state folder, absolute
	Manifest string // absolute path, or file, http, https or oci URL; "": none was named
	// ManifestFrom says who named the manifest: SMOLVM_MANIFEST or the path of
	// the file.
	ManifestFrom string
	File         string      // path of config.toml, which need not be there
	Catalogues   []Catalogue // of the file
	Backend      string      // "": chosen for the host; else QEMU or Firecracker
	Firecracker  string      // path of the program, absolute; "": it is looked for
	BuildCache   string      // folder of reusable build products, absolute; "": none was named
	TrustedKeys  []string    // public keys the user added to the built-in ones
	UsePublished bool        // images that are published are used, not built here

	user, project values // the settings of the two files
	environment   values
	projectFile   string // empty: none is used
	// Getenv gives a variable of the environment; "" when unset.
	Getenv func(name string) string
}

// Load reads the environment, NAME=VALUE each; an empty value counts as unset;
// and config.toml in the state folder, which the environment overrules. The state folder is .smolvm in userHome unless SMOLVM_HOME says otherwise; a
// relative path counts from the current folder.
func Load(environ []string, userHome string) (Config, error) {
	env := table(environ)
	if err := checkNames(env); err != nil {
		return Config{}, err
	}
	c := Config{Getenv: func(name string) string { return env[name] }}
	var err error
	if c.Home, err = home(env[envHome], userHome); err != nil {
		return Config{}, err
	}
	if c.environment, err = readEnvironment(env); err != nil {
		return Config{}, err
	}
	if err := c.readFile(); err != nil {
		return c, err
	}
	c.take()
	return c, nil
}

// StateFolder is where Load says that the state folder is, without looking at
// anything else.
func StateFolder(environ []string, userHome string) (string, error) {
	return home(table(environ)[envHome], userHome)
}

// readFile adds what config.toml says.
func (c *Config) readFile() error {
	if info, err := os.Stat(c.Home); err == nil && !info.IsDir() {
		return fault.New(fault.Usage, "Name a folder with SMOLVM_HOME, or move what is there away.",
			"use the state folder %s: it is a %s, not a folder", c.Home, kind(info.Mode()))
	}
	c.File = filepath.Join(c.Home, fileName)
	raw, err := readFile(c.File)
	if err != nil {
		return err
	}
	f, err := decodeFile(raw, c.File)
	if err != nil {
		return err
	}
	c.Catalogues, c.user = f.Catalogues, f.values
	return nil
}

func kind(mode os.FileMode) string {
	if mode.IsRegular() {
		return "file"
	}
	return "special file (" + mode.Type().String() + ")"
}

// OwnHome reports whether the environment names the state folder.
func (c Config) OwnHome() bool { return c.Getenv(envHome) != "" }

// table indexes the environment. As in libc and Go, the first of two settings
// of one name counts.
func table(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if _, taken := env[name]; ok && !taken {
			env[name] = value
		}
	}
	return env
}

func checkNames(env map[string]string) error {
	var wrong []string
	for name := range env {
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(known, name) {
			wrong = append(wrong, name)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	hint := "Unset it. The variables are " + strings.Join(known, ", ") + "."
	if near := preset.NearestWord(wrong[0], known); near != "" {
		hint = fmt.Sprintf("Did you mean %s? Else unset it.", near)
	}
	return fault.New(fault.Usage, hint, "there is no variable %s", wrong[0])
}

// named says which variable an error is about.
func named(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

func home(value, userHome string) (string, error) {
	if value != "" {
		path, err := absolute(value)
		return path, named(envHome, err)
	}
	if !filepath.IsAbs(userHome) {
		return "", fault.New(fault.Usage, "Set SMOLVM_HOME to a folder of your own.",
			"the state folder has no place: your home folder is %q", userHome)
	}
	return filepath.Join(userHome, ".smolvm"), nil
}

// absolute makes a path absolute; "" stays.
func absolute(path string) (string, error) {
	switch {
	case path == "":
		return "", nil
	case strings.HasPrefix(path, "~"): // the shell did not replace it, and nobody wants a folder of that name
		return "", fault.New(fault.Usage, "Leave the ~ outside of quotes, or write $HOME.", "path %q starts with ~", path)
	case strings.ContainsAny(path, "\x00\n"):
		return "", fault.New(fault.Usage, "Choose another path.", "path %q has a line break or a NUL in it", path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fault.New(fault.Usage, "Give an absolute path.", "find the place of %q: %w", path, err)
	}
	return abs, nil
}

// ManifestAddress checks what a user named as a manifest: a path (made
// absolute), or a file, http, https or oci URL. "" stays.
func ManifestAddress(text string) (string, error) {
	scheme, _, isURL := strings.Cut(text, "://")
	if !isURL {
		return absolute(text)
	}
	switch strings.ToLower(scheme) {
	case "http", "https", "file", "oci":
	default:
		return "", fault.New(fault.Usage, "Name the manifest by path, http(s) URL or oci:// reference.", "manifest %q: unknown scheme %.40q", shown(text), scheme)
	}
	return text, checkURL(text)
}

// checkURL refuses what does not name one place beside which other files are. A
// query is such: it would be lost on the way to the other files, or be a token
// that is shown and kept. No message holds it.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		var wrong *url.Error
		if errors.As(err, &wrong) { // it would show all of the address
			err = wrong.Err
		}
		return fault.New(fault.Usage, "Check the address.", "manifest address %q: %w", shown(text), err)
	}
	web := u.Scheme == "http" || u.Scheme == "https"
	switch {
	case u.Host == "" && u.Scheme != "file":
		return fault.New(fault.Usage, "Check the address.", "manifest %q: the address names no server", shown(text))
	case web && (u.RawQuery != "" || u.ForceQuery):
		return fault.New(fault.Usage, "Leave out the ? and what follows it; a login goes before the server's name, https://NAME:PASSWORD@SERVER/.",
			"manifest %q: an address with a query cannot be used", shown(text))
	case web && strings.Contains(text, "#"):
		return fault.New(fault.Usage, "Leave out the # and what follows it.", "manifest %q: an address with a fragment cannot be used", shown(text))
	}
	return nil
}

// shown is an address without the password, query and fragment in it, for
// messages, also where it is not well formed.
func shown(address string) string {
	scheme, rest, isURL := strings.Cut(address, "://")
	if !isURL {
		return address
	}
	if strings.HasPrefix(strings.ToLower(scheme), "http") {
		rest, _, _ = strings.Cut(rest, "?")
		rest, _, _ = strings.Cut(rest, "#")
	}
	login, _, _ := strings.Cut(rest, "/")
	if _, err := url.Parse(address); err != nil { // nobody knows where its server's name ends
		login = rest
	}
	return scheme + "://" + rest[strings.LastIndex(login, "@")+1:]
}

// ParseBackend checks the name of a VMM. "" stays: it is chosen for the host. One
// that cannot be used here is refused by what starts machines, and by nothing else.
func ParseBackend(text string) (string, error) {
	switch text {
	case "", QEMU, Firecracker:
		return text, nil
	}
	hint := "The backends are qemu and firecracker."
	if near := preset.NearestWord(text, []string{QEMU, Firecracker}); near != "" {
		hint = "Did you mean " + near + "?"
	}
	return "", fault.New(fault.Usage, hint, "there is no backend %q", text)
}

// yesOrNo reads a switch.
func yesOrNo(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "1", "true", "yes":
		return true, nil
	case "0", "false", "no":
		return false, nil
	}
	return false, fault.New(fault.Usage, "Use 1, true, yes, 0, false or no.", "%.60q is neither yes nor no", text)
}
