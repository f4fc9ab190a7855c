package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// FromDefault is the origin of a value that nobody set.
const FromDefault = "default"

// readEnvironment reads the settings that have a variable.
func readEnvironment(env map[string]string) (values, error) {
	all := values{}
	for _, s := range Settings() {
		if s.Env == "" || env[s.Env] == "" {
			continue
		}
		v, err := s.Read([]string{env[s.Env]})
		if err != nil {
			return nil, named(s.Env, unnamed(s.Key, err))
		}
		all[s.Key] = v
	}
	return all, nil
}

// unnamed takes the setting's key from an error that a variable's name replaces.
func unnamed(key string, err error) error {
	text := strings.TrimPrefix(err.Error(), key+": ")
	return &fault.Fault{Code: fault.CodeOf(err), Hint: fault.HintOf(err), Err: errors.New(text)}
}

// take sets the fields that other rooms read from the settings.
func (c *Config) take() {
	v, from := c.Lookup("manifest", "")
	if c.Manifest = v.Text; v.Text != "" {
		c.ManifestFrom = from
	}
	v, _ = c.Lookup("backend", "")
	c.Backend = v.Text
	v, _ = c.Lookup("firecracker", "")
	c.Firecracker = v.Text
	v, _ = c.Lookup("build_cache", "")
	c.BuildCache = v.Text
	c.UsePublished = c.On("use_published", "")
}

// Lookup gives the value of a setting that holds for a preset (empty: for all),
// and where it comes from: a variable's name, a file's path, or "default". The
// environment overrules the project's file, that the user's; in a file a preset's
// table overrules the top. Where nothing is set, the value may be empty.
func (c Config) Lookup(key, presetName string) (v Value, origin string) {
	for _, s := range c.sources() {
		if presetName != "" {
			if v, ok := s.values[PresetKey(presetName, key)]; ok {
				return v, s.originOf(key)
			}
		}
		if v, ok := s.values[key]; ok {
			return v, s.originOf(key)
		}
	}
	s, _, _ := FindSetting(key)
	if presetName != "" {
		s, _, _ = FindSetting(PresetKey(presetName, key))
	}
	return Value{Text: s.Default}, FromDefault
}

// With is the configuration as it is once a setting was written to the user's file.
func (c Config) With(key string, v Value) Config {
	c.user = maps.Clone(c.user)
	if c.user == nil {
		c.user = values{}
	}
	c.user[key] = v
	c.take()
	return c
}

// source is one place of settings.
type source struct {
	values values
	origin string // empty: the environment
}

// sources are the places in the order in which they count.
func (c Config) sources() []source {
	return []source{{c.environment, ""}, {c.project, c.projectFile}, {c.user, c.File}}
}

func (s source) originOf(key string) string {
	if s.origin != "" {
		return s.origin
	}
	setting, _, _ := FindSetting(key)
	return setting.Env
}

// On tells whether a switch is on.
func (c Config) On(key, presetName string) bool {
	v, _ := c.Lookup(key, presetName)
	return v.Text == "true"
}

// Has tells whether somebody set a setting.
func (c Config) Has(key, presetName string) bool {
	_, origin := c.Lookup(key, presetName)
	return origin != FromDefault
}

// Number gives a count or a size in bytes; 0 where it is not set.
func (c Config) Number(key, presetName string) int64 {
	v, _ := c.Lookup(key, presetName)
	if n, err := strconv.ParseInt(v.Text, 10, 64); err == nil {
		return n
	}
	n, err := ParseSize(v.Text)
	if err != nil {
		return 0 // it was checked when it was read: nothing is set
	}
	return n
}

// IdleStop is after what time a sandbox of a preset stops that nobody uses; 0: never.
func (c Config) IdleStop(presetName string) time.Duration {
	v, _ := c.Lookup("idle_stop", presetName)
	d, _ := parseIdle(v.Text) // it was checked when it was read
	return d
}

// EnvEntries are the variables of all files that a preset's agent gets, the
// weakest first: the lists of the files add up, and a later entry overrules.
func (c Config) EnvEntries(presetName string) []string {
	var all []string
	for _, s := range slices.Backward(c.sources()) {
		all = append(all, s.values["env"].List...)
		all = append(all, s.values[PresetKey(presetName, "env")].List...)
	}
	return all
}

// Keys are the whole keys of what can be listed: every setting of the top, and
// those of presets that are set.
func (c Config) Keys() []string {
	var top []string
	for _, s := range Settings() {
		if s.Top {
			top = append(top, s.Key)
		}
	}
	of := map[string]bool{}
	for _, s := range c.sources() {
		for key := range s.values {
			if strings.HasPrefix(key, presetPrefix) {
				of[key] = true
			}
		}
	}
	return append(top, slices.Sorted(maps.Keys(of))...)
}

// Get is Lookup by a whole key, as users write it.
func (c Config) Get(key string) (Value, string, error) {
	s, presetName, err := FindSetting(key)
	if err != nil {
		return Value{}, "", fmt.Errorf("look at the configuration: %w", err)
	}
	v, origin := c.Lookup(s.Key, presetName)
	return v, origin, nil
}
