package config

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

const (
	fileName     = "config.toml"
	manifestFile = "manifest.json"

	maxFile       = 256 << 10 // bytes
	maxCatalogues = 100
	maxKeys       = 32 // of a catalogue
	maxMirrors    = 16 // of a catalogue
	maxAddress    = 2000
	keyLength     = 42 // bytes of a minisign public key: algorithm, id, key
)

// fileKeys are the keys that a table of the file may have; none: there is no such table.
func fileKeys(table string) []string {
	var keys []string
	switch {
	case table == "catalogue":
		return []string{"address", "keys", "threshold", "mirrors"}
	case table == "":
		keys = []string{"catalogue"}
	case !isPresetTable(table):
		return nil
	}
	for _, s := range Settings() {
		if table == "" && s.Top || table != "" && s.Preset {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// isPresetTable tells whether a table is [preset.NAME].
func isPresetTable(table string) bool {
	name, ok := strings.CutPrefix(table, presetPrefix)
	return ok && preset.IsWord(name)
}

// Catalogue is what the file says about one catalogue of images.
type Catalogue struct {
	Address   string   `toml:"address" json:"address"`
	Keys      []string `toml:"keys" json:"keys,omitempty"`           // minisign public keys; none: the built-in ones count
	Threshold int      `toml:"threshold" json:"threshold,omitempty"` // 0 where there are no keys
	Mirrors   []string `toml:"mirrors" json:"mirrors,omitempty"`     // folders with the same files, in the order they are asked
}

// document is SMOLVM_HOME/config.toml.
type document struct {
	Manifest string `toml:"manifest"`
	settingTable
	Presets    map[string]settingTable `toml:"preset"`
	Catalogues []Catalogue             `toml:"catalogue"`

	values values // of all settings, filled in by check
}

// Catalogue is the file's entry for a manifest's address, however it is written:
// with or without the manifest's name, as a path or as a file:// URL.
func (c Config) Catalogue(address string) (Catalogue, bool) {
	for _, entry := range c.Catalogues {
		if SameAddress(entry.Address, address) {
			return entry, true
		}
	}
	return Catalogue{}, false
}

// SameAddress reports whether two addresses name one catalogue.
func SameAddress(a, b string) bool { return normal(a) == normal(b) }

// normal is the form of an address that is compared: of the folder, with scheme
// and server in lower case.
func normal(address string) string {
	scheme, rest, isURL := strings.Cut(address, "://")
	scheme = strings.ToLower(scheme)
	if isURL && scheme == "file" {
		address, isURL = strings.TrimPrefix(rest, "localhost"), false
	}
	if !isURL {
		return strings.TrimSuffix(filepath.Clean(address), "/"+manifestFile)
	}
	if scheme == "oci" {
		rest = strings.TrimSuffix(rest, "#"+manifestFile)
	}
	server, path, _ := strings.Cut(rest, "/")
	path = strings.TrimSuffix(strings.TrimSuffix("/"+path, "/"+manifestFile), "/")
	return scheme + "://" + strings.ToLower(server) + path
}

// readFile reads the file, following a link. One that is not there is empty.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would block
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "Make it readable, or remove it.", "read the configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the configuration: %w", err)
	case !info.Mode().IsRegular():
		return nil, fault.New(fault.Usage, "Remove it.", "read the configuration: %s is not a regular file", path)
	case info.Mode().Perm()&0o002 != 0:
		return nil, fault.New(fault.Usage, "Take the permission away: chmod o-w "+path,
			"read the configuration: everybody may write %s, which says whom to trust", path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fault.New(fault.Usage, "", "read the configuration: %w", err)
	}
	return raw, nil
}

// decodeFile reads the text of the file; path is for messages.
func decodeFile(raw []byte, path string) (document, error) {
	if len(raw) > maxFile {
		return document{}, fault.New(fault.Usage, "Shorten it.", "%s has more than %d bytes", path, maxFile)
	}
	if err := checkKeys(raw); err != nil {
		return document{}, inFile(path, err)
	}
	var f document
	if err := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields().Decode(&f); err != nil {
		return document{}, inFile(path, explain(err))
	}
	if err := f.check(); err != nil {
		return document{}, inFile(path, err)
	}
	return f, nil
}

func inFile(path string, err error) error {
	hint := fault.HintOf(err)
	if hint == "" {
		hint = "Correct the file."
	}
	return fault.New(fault.Usage, hint, "%s: %w", path, err)
}

// checkKeys refuses what is misspelt, with the word that was meant; the decoder
// would take keys in other case.
func checkKeys(raw []byte) error {
	var p unstable.Parser
	p.Reset(raw)
	table := ""
	for p.NextExpression() {
		node := p.Expression()
		key := keyOf(node)
		switch {
		case len(key) == 0:
		case node.Kind == unstable.Table || node.Kind == unstable.ArrayTable:
			table = strings.Join(key, ".")
			single := node.Kind == unstable.Table
			if single != isPresetTable(table) || fileKeys(table) == nil {
				return wrongTable(table)
			}
		case len(key) > 1 || !slices.Contains(fileKeys(table), key[0]):
			return unknownKey(strings.Join(key, "."), table)
		}
	}
	return nil // what is no TOML is explained by the decoder
}

func wrongTable(table string) error {
	if table == "catalogue" {
		return fault.New(fault.Usage, "Write [[catalogue]]: there may be several.", "[catalogue] has single brackets")
	}
	return fault.New(fault.Usage, "The tables are [[catalogue]] and [preset.NAME].", "there is no table %.60q", table)
}

func unknownKey(key, table string) error {
	known := fileKeys(table)
	hint := "The keys here are " + strings.Join(known, ", ") + "."
	if near := preset.NearestWord(key, known); near != "" {
		hint = "Did you mean " + near + "?"
	}
	return fault.New(fault.Usage, hint, "there is no key %.60q", key)
}

// keyOf is the dotted key of an expression; none where it has no key.
func keyOf(node *unstable.Node) []string {
	if node.Kind != unstable.KeyValue && node.Kind != unstable.Table && node.Kind != unstable.ArrayTable {
		return nil
	}
	var parts []string
	for it := node.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
	}
	return parts
}

func (f *document) check() (err error) {
	if f.values, err = f.set(); err != nil {
		return err
	}
	if f.Manifest != "" {
		if err := checkAddress(f.Manifest); err != nil {
			return named("manifest", err)
		}
		f.values["manifest"] = Value{Text: f.Manifest}
	}
	if len(f.Catalogues) > maxCatalogues {
		return fmt.Errorf("%d catalogues, at most %d are allowed", len(f.Catalogues), maxCatalogues)
	}
	for i := range f.Catalogues {
		entry := &f.Catalogues[i]
		if err := entry.check(); err != nil {
			return fmt.Errorf("catalogue %.80q: %w", shown(entry.Address), err)
		}
		for _, other := range f.Catalogues[:i] {
			if SameAddress(other.Address, entry.Address) {
				return fault.New(fault.Usage, "Make one of the two.", "catalogue %.80q is there twice", shown(entry.Address))
			}
		}
	}
	return nil
}

// check also fills in the threshold.
func (c *Catalogue) check() error {
	if err := checkAddress(c.Address); err != nil {
		return named("address", err)
	}
	switch {
	case len(c.Keys) == 0 && (c.Keys != nil || c.Threshold != 0):
		return fault.New(fault.Usage, "Name a key, or leave keys and threshold out: then the built-in keys count.", "it names no keys")
	case len(c.Keys) > maxKeys || len(c.Mirrors) > maxMirrors:
		return fmt.Errorf("%d keys and %d mirrors, at most %d and %d are allowed", len(c.Keys), len(c.Mirrors), maxKeys, maxMirrors)
	case len(c.Keys) > 0 && c.Threshold == 0:
		c.Threshold = 1
	case c.Threshold < 0 || c.Threshold > len(c.Keys):
		return fmt.Errorf("threshold %d is not between 1 and the number of keys (%d)", c.Threshold, len(c.Keys))
	}
	for i, key := range c.Keys {
		if err := checkKey(key); err != nil {
			return err
		}
		if slices.Contains(c.Keys[:i], key) {
			return fmt.Errorf("key %s is there twice", key)
		}
	}
	for i, mirror := range c.Mirrors {
		if err := checkAddress(mirror); err != nil {
			return named("mirrors", err)
		}
		if slices.Contains(c.Mirrors[:i], mirror) {
			return fmt.Errorf("mirror %.80q is there twice", shown(mirror))
		}
	}
	return nil
}

// checkKey accepts a public key as one line. The text is not shown: it may be
// the private half, named by mistake.
func checkKey(key string) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(key)
	if err != nil || len(raw) != keyLength || raw[0] != 'E' || raw[1] != 'd' {
		return fault.New(fault.Usage, "A key is minisign's public key: the line of the .pub file that starts with RW.",
			"a key of %d characters is not a public key", len(key))
	}
	return nil
}

// checkAddress accepts what does not depend on the current folder.
func checkAddress(text string) error {
	if text == "" || len(text) > maxAddress {
		return fault.New(fault.Usage, "Name a path, or a file, http, https or oci address.", "an address of %d bytes", len(text))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.Usage, "Check the address.", "address %.80q has control characters in it", shown(text))
	}
	if !strings.Contains(text, "://") && !strings.HasPrefix(text, "~") && !filepath.IsAbs(text) {
		return fault.New(fault.Usage, "Write the whole path.", "path %.80q is relative, and a configuration has no current folder", text)
	}
	_, err := ManifestAddress(text)
	return err
}
