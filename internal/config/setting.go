package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

// Kind is the form of a setting's value.
type Kind string

// The kinds.
const (
	Text   Kind = "text"
	Count  Kind = "number"
	Size   Kind = "size" // text such as 4G
	Switch Kind = "true or false"
	List   Kind = "list" // of texts
	Time   Kind = "time" // text such as 10m, or never
)

// Setting is one thing that can be configured.
type Setting struct {
	Key     string // in the file; that of a preset's table without "preset.NAME."
	Kind    Kind
	Env     string // variable that overrules the files; empty: none
	Default string // shown where nothing is set
	Top     bool   // may stand at the top of a file
	Preset  bool   // may stand in a preset's table
	Project bool   // a project's file may say it
	Help    string
	check   func(text string) error
}

// Settings are all that can be configured besides the catalogues.
func Settings() []Setting {
	return []Setting{
		{Key: "manifest", Kind: Text, Env: envManifest, Top: true, Help: "the catalogue of images: a path, http(s):// or oci://", check: checkAddress},
		{Key: "backend", Kind: Text, Env: envBackend, Top: true, Help: "what runs sandboxes: qemu or firecracker; chosen for this computer", check: checkBackend},
		{Key: "firecracker", Kind: Text, Env: envFirecracker, Top: true, Help: "path of the program firecracker; looked for in PATH and ~/.smolvm/bin", check: checkFolder},
		{Key: "build_cache", Kind: Text, Env: envBuildCache, Top: true, Help: "folder for the products of image builds", check: checkFolder},
		{Key: "use_published", Kind: Switch, Env: envUsePublished, Default: "true", Top: true, Help: "false: every image is built on this computer"},
		{Key: "cpus", Kind: Count, Env: envCPUs, Top: true, Preset: true, Project: true, Help: "CPUs of a new sandbox; the image says how many", check: checkCPUs},
		{Key: "memory", Kind: Size, Env: envMemory, Top: true, Preset: true, Project: true, Help: "memory of a new sandbox, such as 4G; the image says how much", check: checkSize},
		{Key: "disk", Kind: Size, Env: envDisk, Top: true, Preset: true, Project: true, Help: "most that a new sandbox may write, such as 20G; the image says how much", check: checkSize},
		{Key: "idle_stop", Kind: Time, Env: envIdleStop, Default: "10m", Top: true, Preset: true, Project: true, Help: "how long a sandbox that nobody uses runs on, such as 30m; never", check: checkIdle},
		{Key: "env", Kind: List, Top: true, Preset: true, Project: true, Help: "variables for the agent: NAME for the value that it has here, or NAME=VALUE", check: checkEnvEntry},
		{Key: "git_identity", Kind: Switch, Default: "true", Top: true, Help: "git in a sandbox knows your name and email address"},
		{Key: "browser", Kind: Text, Default: "ask", Top: true, Help: "what becomes of an address that a sandbox wants opened: ask, or show", check: checkBrowser},
		{Key: "credentials", Kind: List, Preset: true, Help: "what of this computer the agent gets: variables by name, login files as ~/PATH; unset: you are asked once", check: checkCredential},
		{Key: "credential_proxy", Kind: Switch, Default: "true", Preset: true, Help: "what of those variables the preset has a rule for is kept from sandboxes, which get placeholders"},
		{Key: "copy_back", Kind: Switch, Default: "false", Preset: true, Help: "login files that the agent renewed replace those of this computer"},
	}
}

// Value is what a setting is set to: a text, or of a list its entries.
type Value struct {
	Text string
	List []string
}

func (v Value) String() string { return cmp.Or(v.Text, strings.Join(v.List, ", ")) }

// values are the settings of one file, by their whole key.
type values map[string]Value

// presetPrefix begins the key of a setting of one preset.
const presetPrefix = "preset."

// PresetKey is the whole key of a preset's setting.
func PresetKey(name, key string) string { return presetPrefix + name + "." + key }

// FindSetting finds the setting of a whole key, and the preset that it is for.
func FindSetting(key string) (s Setting, presetName string, err error) {
	rest, ofPreset := strings.CutPrefix(key, presetPrefix)
	if ofPreset {
		presetName, rest, _ = strings.Cut(rest, ".")
	}
	var words []string
	for _, s := range Settings() {
		if ofPreset && !s.Preset || !ofPreset && !s.Top {
			continue
		}
		if s.Key == rest {
			return s, presetName, nil
		}
		words = append(words, s.Key)
	}
	hint := "The settings are " + strings.Join(words, ", ") + "."
	if near := preset.NearestWord(rest, words); near != "" {
		hint = "Did you mean " + strings.TrimSuffix(key, rest) + near + "?"
	}
	return Setting{}, "", fault.New(fault.Usage, hint, "there is no setting %.60q", key)
}

// Read checks what a user wrote for the setting.
func (s Setting) Read(words []string) (Value, error) {
	if s.Kind == List {
		for i, word := range words {
			if err := s.checked(word); err != nil {
				return Value{}, err
			}
			if slices.Contains(words[:i], word) {
				return Value{}, fault.New(fault.Usage, "", "%s: %.60q is there twice", s.Key, nameOf(word))
			}
		}
		return Value{List: append([]string{}, words...)}, nil
	}
	if len(words) != 1 {
		return Value{}, fault.New(fault.Usage, "Give one value.", "%s is a %s, not a list", s.Key, s.Kind)
	}
	text := words[0]
	switch s.Kind {
	case Switch:
		yes, err := yesOrNo(text)
		if err != nil {
			return Value{}, named(s.Key, err)
		}
		text = strconv.FormatBool(yes)
	case Text:
		if s.Key == "manifest" || s.Key == "build_cache" || s.Key == "firecracker" { // a shell's relative path
			var err error
			if text, err = ManifestAddress(text); err != nil {
				return Value{}, named(s.Key, err)
			}
		}
	}
	return Value{Text: text}, s.checked(text)
}

// checked checks one word, naming the setting where it is wrong.
func (s Setting) checked(text string) error {
	if s.check == nil {
		return nil
	}
	if len(text) > maxAddress || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.Usage, "", "%s: a value is too long or has control characters in it", s.Key)
	}
	return named(s.Key, s.check(text))
}

func checkBackend(text string) error {
	_, err := ParseBackend(text)
	if err == nil && text == "" {
		err = fault.New(fault.Usage, "Unset it: then it is chosen for this computer.", "it is empty")
	}
	return err
}

func checkFolder(text string) error {
	if !strings.HasPrefix(text, "/") {
		return fault.New(fault.Usage, "Write the whole path.", "path %.80q is relative, and a configuration has no current folder", text)
	}
	return nil
}

// maxCPUs is far above what a host has, which is asked when a sandbox is made.
const maxCPUs = 4096

func checkCPUs(text string) error {
	if n, err := strconv.Atoi(text); err != nil || n < 1 || n > maxCPUs {
		return fault.New(fault.Usage, "Give a number from 1.", "%.40q is not a number of CPUs", text)
	}
	return nil
}

func checkSize(text string) error {
	n, err := ParseSize(text)
	if err == nil && n == 0 {
		err = fault.New(fault.Usage, "Write a number and a unit, such as 4G.", "size %q is nothing", text)
	}
	return err
}

// minIdle is far below what is of use, and above what a start and its first
// session take apart on a busy computer.
const minIdle = time.Second

func checkIdle(text string) error {
	_, err := parseIdle(text)
	return err
}

// parseIdle reads a time; 0 is never.
func parseIdle(text string) (time.Duration, error) {
	if text == "never" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < minIdle {
		return 0, fault.New(fault.Usage, "Write a number and a unit, such as 30m, or never.", "%.40q is not a time from 1s", text)
	}
	return d, nil
}

func checkEnvEntry(text string) error {
	name, _, _ := strings.Cut(text, "=")
	return checkVariable(name)
}

func checkBrowser(text string) error {
	if text != "ask" && text != "show" {
		return fault.New(fault.Usage, "ask: you are asked on a terminal; show: the address is only shown.", "%.40q is neither ask nor show", text)
	}
	return nil
}

// checkCredential accepts a variable's name, or a login file below the home folder.
func checkCredential(text string) error {
	if path, ok := strings.CutPrefix(text, "~/"); ok {
		return preset.CheckLogin(path)
	}
	if strings.Contains(text, "=") {
		return errors.Join(fault.New(fault.Usage, "Write only the name: the value is taken from your environment.",
			"a credential's value does not belong into a configuration"))
	}
	return checkVariable(text)
}

// nameOf is what of an entry NAME=VALUE may be shown.
func nameOf(entry string) string {
	name, _, _ := strings.Cut(entry, "=")
	return name
}

// set tells which settings of a decoded file are set, and checks them.
func (f *document) set() (values, error) {
	all := values{}
	add := func(prefix, key string, words []string) error {
		s, _, err := FindSetting(prefix + key)
		if err != nil {
			return err
		}
		for _, word := range words { // paths are not made absolute: the file's must be
			if err := s.checked(word); err != nil {
				return err
			}
		}
		value, err := s.Read(words)
		all[prefix+key] = value
		return err
	}
	err := f.settingTable.each(func(key string, words []string) error { return add("", key, words) })
	for name, table := range f.Presets {
		if !preset.IsWord(name) {
			err = errors.Join(err, fault.New(fault.Usage, "Write [preset.NAME] with a preset's name.", "[preset.%.40s] names no preset", name))
			continue
		}
		err = errors.Join(err, table.each(func(key string, words []string) error { return add(PresetKey(name, ""), key, words) }))
	}
	return all, err
}

// settingTable is the settings of a file or of a preset's table in it.
type settingTable struct {
	Backend      string   `toml:"backend"`
	Firecracker  string   `toml:"firecracker"`
	BuildCache   string   `toml:"build_cache"`
	UsePublished *bool    `toml:"use_published"`
	CPUs         *int64   `toml:"cpus"`
	Memory       string   `toml:"memory"`
	Disk         string   `toml:"disk"`
	IdleStop     string   `toml:"idle_stop"`
	Env          []string `toml:"env"`
	GitIdentity  *bool    `toml:"git_identity"`
	Browser      string   `toml:"browser"`
	Credentials  []string `toml:"credentials"`
	CopyBack     *bool    `toml:"copy_back"`
	Proxy        *bool    `toml:"credential_proxy"`
}

// each calls with every setting that is there.
func (t settingTable) each(call func(key string, words []string) error) error {
	var errs []error
	for key, text := range map[string]string{
		"backend": t.Backend, "firecracker": t.Firecracker, "build_cache": t.BuildCache, "memory": t.Memory, "disk": t.Disk, "idle_stop": t.IdleStop, "browser": t.Browser,
	} {
		if text != "" {
			errs = append(errs, call(key, []string{text}))
		}
	}
	for key, yes := range map[string]*bool{"use_published": t.UsePublished, "git_identity": t.GitIdentity, "copy_back": t.CopyBack, "credential_proxy": t.Proxy} {
		if yes != nil {
			errs = append(errs, call(key, []string{strconv.FormatBool(*yes)}))
		}
	}
	if t.CPUs != nil {
		errs = append(errs, call("cpus", []string{strconv.FormatInt(*t.CPUs, 10)}))
	}
	for key, list := range map[string][]string{"env": t.Env, "credentials": t.Credentials} {
		if list != nil {
			errs = append(errs, call(key, list))
		}
	}
	return errors.Join(errs...)
}

// literal writes a value for TOML.
func (s Setting) literal(v Value) string {
	switch s.Kind {
	case Count, Switch:
		return v.Text
	case List:
		words := make([]string, 0, len(v.List))
		for _, word := range v.List {
			words = append(words, quoted(word))
		}
		return "[" + strings.Join(words, ", ") + "]"
	}
	return quoted(v.Text)
}

// Template is the text of a new configuration: every setting, as a comment.
func Template() string {
	var out strings.Builder
	out.WriteString("# Configuration of smolvm. Take the # before a setting away to use it, or say\n" +
		"# smolvm config set KEY VALUE. Flags and SMOLVM_ variables overrule this file.\n")
	for _, s := range Settings() {
		if s.Top {
			fmt.Fprintf(&out, "\n# %s\n#%s = %s\n", s.Help, s.Key, s.example())
		}
	}
	out.WriteString("\n# What holds for the sandboxes of one preset only; also cpus, memory, disk, env.\n#[preset.claude-code]\n")
	for _, s := range Settings() {
		if s.Preset && !s.Top {
			fmt.Fprintf(&out, "\n# %s\n#%s = %s\n", s.Help, s.Key, s.example())
		}
	}
	out.WriteString("\n# Whose signatures count for a catalogue: smolvm config trust add KEY\n" +
		"#[[catalogue]]\n#address = \"https://example.org/images/\"\n#keys = [\"RW...\"]\n")
	return out.String()
}

// example is a value as the template shows it.
func (s Setting) example() string {
	text := map[string]string{
		"manifest": `"https://example.org/images/"`, "backend": `"qemu"`, "firecracker": `"/opt/firecracker/firecracker"`, "build_cache": `"/var/cache/smolvm"`, "cpus": "2",
		"memory": `"4G"`, "disk": `"20G"`, "env": `["TZ", "NODE_ENV=test"]`,
		"credentials": `["ANTHROPIC_API_KEY", "~/.claude/.credentials.json"]`,
	}[s.Key]
	if text == "" {
		text = s.literal(Value{Text: s.Default})
	}
	return text
}
