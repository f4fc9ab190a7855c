package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

// ProjectFile is the name of a directory's own configuration. Whoever writes into
// the directory writes it, so it counts only after the user trusted its content.
const ProjectFile = ".smolvm.toml"

const (
	trustName   = "projects.json"
	maxTrusted  = 1000 // the oldest are forgotten
	maxTrustDoc = 1 << 20
)

// Project is a directory's own configuration.
type Project struct {
	File    string // absolute
	Text    string
	SHA256  string // of the text
	Trusted bool   // the user trusted exactly this text in this file

	values values
}

// ReadProject reads and checks the file of a directory; ok is false where there is none.
func (c Config) ReadProject(dir string) (p Project, ok bool, err error) {
	if dir == "" {
		return p, false, nil
	}
	p.File = filepath.Join(dir, ProjectFile)
	raw, err := readProject(p.File)
	if errors.Is(err, fs.ErrNotExist) {
		return p, false, nil
	}
	if err != nil {
		return p, true, err
	}
	sum := sha256.Sum256(raw)
	p.Text, p.SHA256 = string(raw), hex.EncodeToString(sum[:])
	f, err := decodeFile(raw, p.File)
	if err == nil {
		err = f.checkProject(p.File)
	}
	if err != nil {
		return p, true, err
	}
	p.values = f.values
	list, err := c.readTrusted()
	p.Trusted = slices.ContainsFunc(list, func(t trusted) bool { return t.File == p.File && t.SHA256 == p.SHA256 })
	return p, true, err
}

func readProject(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would block
	if err != nil {
		return nil, fmt.Errorf("read the project's configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.New(fault.Usage, "Remove it.", "read the project's configuration: %s is not a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the project's configuration: %w", err)
	}
	return raw, nil
}

// checkProject refuses what only the user may say.
func (f *document) checkProject(path string) error {
	if len(f.Catalogues) > 0 {
		return fault.New(fault.Usage, "Say whom to trust in your own configuration.", "%s: a project's file names no catalogues", path)
	}
	for key := range f.values {
		if s, _, err := FindSetting(key); err != nil || !s.Project {
			return fault.New(fault.Usage, "Take it out; it belongs into your own configuration: smolvm config set.", "%s: a project's file may not set %s", path, key)
		}
	}
	return nil
}

// WithProject is the configuration with a project's file in it.
func (c Config) WithProject(p Project) Config {
	c.project, c.projectFile = p.values, p.File
	c.take()
	return c
}

// trusted is one content that the user trusted.
type trusted struct {
	File   string    `json:"file"`
	SHA256 string    `json:"sha256"`
	Since  time.Time `json:"since"`
}

// trustedDoc is SMOLVM_HOME/projects.json.
type trustedDoc struct {
	Version  int       `json:"version"`
	Projects []trusted `json:"projects"`
}

// TrustProject remembers that a file's content may be used, instead of an earlier
// content of the same file; false when it was trusted already.
func (c Config) TrustProject(ctx context.Context, p Project, now time.Time) (bool, error) {
	return c.changeTrusted(ctx, func(list []trusted) []trusted {
		if slices.ContainsFunc(list, func(t trusted) bool { return t.File == p.File && t.SHA256 == p.SHA256 }) {
			return list
		}
		list = slices.DeleteFunc(list, func(t trusted) bool { return t.File == p.File })
		list = append(list, trusted{p.File, p.SHA256, now.UTC()})
		return list[max(0, len(list)-maxTrusted):]
	})
}

// DistrustProject forgets that a file was trusted; false when it was not.
func (c Config) DistrustProject(ctx context.Context, file string) (bool, error) {
	return c.changeTrusted(ctx, func(list []trusted) []trusted {
		return slices.DeleteFunc(list, func(t trusted) bool { return t.File == file })
	})
}

func (c Config) changeTrusted(ctx context.Context, edit func([]trusted) []trusted) (bool, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	list, err := c.readTrusted()
	if err != nil {
		return false, err
	}
	after := edit(slices.Clone(list))
	if slices.Equal(list, after) {
		return false, nil
	}
	raw, err := json.MarshalIndent(trustedDoc{1, after}, "", "  ")
	if err != nil {
		return false, err
	}
	return true, replace(c.trustFile(), string(raw)+"\n", true)
}

func (c Config) trustFile() string { return filepath.Join(c.Home, trustName) }

// readTrusted reads what is trusted. A file that is damaged, or that others may
// write, trusts nothing.
func (c Config) readTrusted() ([]trusted, error) {
	raw, err := readFile(c.trustFile())
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	var doc trustedDoc
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil || doc.Version != 1 || len(raw) > maxTrustDoc {
		return nil, fault.New(fault.Trust, "Remove it: you will be asked again what to trust.", "%s is damaged or of another version of smolvm", c.trustFile())
	}
	return doc.Projects, nil
}
