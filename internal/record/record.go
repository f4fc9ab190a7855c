// Package record keeps what is known about each sandbox: one folder and one JSON
// record per sandbox under the state folder ("home").
//
// Input is the home's path; outputs are Records and the paths of everything that
// belongs to a sandbox. A record is replaced atomically (temporary file, fsync,
// rename, fsync of the folder), so after a crash or a power loss at any moment
// either the old or the new one is there, whole. A folder is reserved, and
// removed, by one rename or mkdir under a lock. Liveness is a lock that the
// supervisor holds, never a process id.
//
// Paths inside home are stored relative to it, so that the folder may be moved.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/wire"
)

// Version is the version of the record that this program reads and writes. A
// record of another version is neither read nor replaced.
const Version = 1

// maxRecord bounds a record in bytes. A real one takes about 3 KiB; the guest's
// boot report, the one part that this program did not make, is bounded by
// wire.MaxMessage.
const maxRecord = 1 << 20

// The values of Record.State.
const (
	Creating = "creating" // its disks are being made; removed when found without a lock
	Created  = "created"  // it can be started
)

// The values of Record.Confinement.
const (
	Caged   = "cage" // the machine monitor saw nothing but its own files
	Uncaged = "none"
)

// ErrIncomplete marks a sandbox folder without a record: its creation was
// interrupted before the first record was written.
var ErrIncomplete = errors.New("its creation was interrupted")

// Limits are what the control group of a machine monitor allows it; 0 is no limit.
type Limits struct {
	Group     bool   `json:"group"`                  // it has one; else it has the limits of its cage alone
	Memory    uint64 `json:"memory_bytes,omitempty"` // the guest's included
	Processes uint64 `json:"processes,omitempty"`    // and threads
	CPUs      int    `json:"cpus,omitempty"`         // processors' worth of time
	Why       string `json:"why,omitempty"`          // why there is no group, or why it leaves something open
}

// Record is what is known about one sandbox.
type Record struct {
	Version       int              `json:"version"` // set by Write
	Name          string           `json:"name"`
	RenameTo      string           `json:"rename_to,omitempty"` // its name from the moment its folder has it; see Lock.Rename
	ID            string           `json:"id"`                  // instance id, unique over all time
	Preset        string           `json:"preset"`
	Directory     string           `json:"directory,omitempty"` // of this computer, that it was made in
	Arch          string           `json:"arch"`                // amd64, arm64
	VMM           string           `json:"vmm"`                 // qemu, firecracker
	Accel         string           `json:"accel"`               // kvm, hvf, tcg
	VMMProgram    *Program         `json:"vmm_program,omitempty"`
	Confinement   string           `json:"confinement,omitempty"` // of the last start: Caged, Uncaged; empty: not known
	Limits        *Limits          `json:"limits,omitempty"`      // of the last start; nil: not known
	Agent         Agent            `json:"agent"`
	Launch        []string         `json:"launch"`
	Arguments     []string         `json:"arguments,omitempty"` // after Launch when the user gives none
	Ports         []int            `json:"ports,omitempty"`     // TCP, that the preset declares
	Services      []wire.Service   `json:"services,omitempty"`
	Mounts        []Mount          `json:"mounts,omitempty"`    // outer ones first
	Forwards      []port.Forward   `json:"forwards,omitempty"`  // of ports of this computer into the sandbox
	Displaced     []port.Displaced `json:"displaced,omitempty"` // those of Forwards whose port was taken: it is tried again at each start
	Image         Image            `json:"image"`
	CPUs          int              `json:"cpus"`
	MemoryMiB     int64            `json:"memory_mib"` // MiB
	DiskBytes     int64            `json:"disk_bytes"` // bytes, the size of the sparse scratch
	Mode          wire.Mode        `json:"mode"`
	Extra         string           `json:"extra,omitempty"` // path of drive extra0
	ExtraReadOnly bool             `json:"extra_read_only,omitempty"`
	Network       bool             `json:"network"`
	Egress        egress.Policy    `json:"egress,omitzero"`       // what the network lets through
	Credentials   []string         `json:"credentials,omitempty"` // NAME=SOURCE of what was kept from it, or from what it is a fork of, at the last start
	Generation    int              `json:"generation,omitempty"`  // how often it was given other layers
	Created       time.Time        `json:"created"`
	Started       time.Time        `json:"started,omitzero"`       // of the last start
	Stopped       time.Time        `json:"stopped,omitzero"`       // of the last orderly stop
	StoppedIdle   bool             `json:"stopped_idle,omitempty"` // that stop was made because nobody used it
	Keep          bool             `json:"keep,omitempty"`         // it runs on when nobody uses it
	State         string           `json:"state"`                  // Creating or Created
	LastError     string           `json:"last_error,omitempty"`
	Troubles      []Trouble        `json:"troubles,omitempty"` // of the last run, the worst first
	Boot          *wire.BootReport `json:"boot,omitempty"`     // of the last boot that became ready
	Snapshot      *Snapshot        `json:"snapshot,omitempty"` // in the record of a snapshot
	// Pid and VMMPid are the processes of the last start, for information only:
	// whether they live is what the lock says.
	Pid    int `json:"pid,omitempty"`     // supervisor
	VMMPid int `json:"vmm_pid,omitempty"` // virtual machine monitor

	// Unknown are fields that a newer program wrote. They are written back as they were.
	Unknown map[string]any `json:"-"`
}

// Snapshot is what is known of a snapshot besides the sandbox that it is of.
type Snapshot struct {
	Of      string `json:"of"`      // the sandbox's name then
	Dialect int    `json:"dialect"` // wire.Dialect of the guest agent in its memory
	Secrets bool   `json:"secrets"` // credentials may be in it
}

// Mount is a folder or file of this computer in the sandbox. Host stays absolute
// when the state folder moves.
type Mount struct {
	Host     string `json:"host"`
	Guest    string `json:"guest"`
	File     bool   `json:"file,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Program is the machine monitor that the sandbox was made for; another one may run
// it meanwhile, as VMM says. Where it is no longer at Path, one is looked for.
type Program struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	Asked   bool   `json:"asked,omitempty"` // for by the user: no other will do
}

// Agent is the program the sandbox was made for.
type Agent struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Image is what the sandbox boots. Paths are absolute in memory.
type Image struct {
	// Address is the catalogue that it came from, without a password: where its
	// files are asked for again when they were altered. Older records have none.
	Address       string  `json:"address,omitempty"`
	Release       string  `json:"release"`
	Kernel        string  `json:"kernel"` // path
	KernelVersion string  `json:"kernel_version"`
	StandIn       string  `json:"stand_in,omitempty"` // whose kernel stands in for ours
	CommandLine   string  `json:"command_line,omitempty"`
	Modules       string  `json:"modules,omitempty"` // path of the module archive; empty: none
	Layers        []Layer `json:"layers"`            // from the bottom
}

// Layer is one read-only disk of an image.
type Layer struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// ValidateName refuses what cannot be a sandbox's name: it has to match
// [a-z0-9][a-z0-9-]{0,62}, which is a safe file name and host name everywhere,
// also where the file system ignores case.
func ValidateName(name string) error { return validate(sandboxNoun, name) }

// Hostname is the host name of a sandbox with that name: no host name ends with '-'.
func Hostname(name string) string { return strings.TrimRight(name, "-") }

// ValidateSnapshotName does the same for a snapshot's name.
func ValidateSnapshotName(name string) error { return validate(snapshotNoun, name) }

func validate(noun, name string) error {
	const hint = "A name has 1 to 63 characters: a-z, 0-9 and '-', not starting with '-'."
	if len(name) < 1 || len(name) > 63 {
		return fault.New(fault.Usage, hint, "%s name %q has %d characters", noun, clip(name), len(name))
	}
	for i := range len(name) {
		if c := name[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return fault.New(fault.Usage, hint, "%s name %q has a character that names cannot have", noun, clip(name))
		}
	}
	return nil
}

// clip keeps a hostile name from flooding a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

// Decode parses a record strictly: bounded size, known version, nothing after it.
// Fields that this program does not know are kept: a newer one of the same version
// only adds what may be ignored. Inside of the known fields there are none, because
// they would be lost. Errors do not name the sandbox; callers do.
func Decode(data []byte) (Record, error) {
	if len(data) > maxRecord {
		return Record{}, fmt.Errorf("the record is larger than %d bytes", maxRecord)
	}
	if err := checkVersion(data); err != nil {
		return Record{}, err
	}
	data, unknown, err := split(data)
	if err != nil {
		return Record{}, fmt.Errorf("the record is damaged: %w", err)
	}
	r := Record{Unknown: unknown}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil && strings.HasPrefix(err.Error(), "json: unknown field") {
		return Record{}, fault.New(fault.Conflict, "Use the smolvm that wrote it, or upgrade this one.",
			"the record has something that this smolvm does not know: %w", err)
	} else if err != nil {
		return Record{}, fmt.Errorf("the record is damaged: %w", err)
	}
	return r, r.check()
}

// split takes the fields out of a record that a Record has not.
func split(data []byte) (known []byte, unknown map[string]any, err error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, nil, err
	}
	names := fields()
	for name, raw := range all {
		if names[name] {
			continue
		}
		delete(all, name)
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, nil, err
		}
		if unknown == nil {
			unknown = map[string]any{}
		}
		unknown[name] = value
	}
	known, err = json.Marshal(all)
	return known, unknown, err
}

// fields are the names that a Record's fields have in JSON.
func fields() map[string]bool {
	names := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Record]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names[name] = true
	}
	delete(names, "-")
	return names
}

// checkVersion comes before the strict decoding, because another version may
// have fields that this one does not know.
func checkVersion(data []byte) error {
	var v struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("the record is damaged: %w", err)
	}
	switch {
	case v.Version == nil || *v.Version < 1:
		return errors.New("the record is damaged: it has no version")
	case *v.Version != Version:
		return fault.New(fault.Conflict, "Use the smolvm that made it, or upgrade this one.",
			"the record has version %d, this smolvm knows version %d", *v.Version, Version)
	}
	return nil
}

// check refuses values that no Write has produced.
func (r Record) check() error {
	if err := ValidateName(r.Name); err != nil {
		return err
	}
	if r.RenameTo != "" {
		if err := ValidateName(r.RenameTo); err != nil {
			return err
		}
	}
	switch {
	case r.State != Creating && r.State != Created:
		return fmt.Errorf("the record is damaged: unknown state %q", clip(r.State))
	case r.CPUs < 0 || r.MemoryMiB < 0 || r.DiskBytes < 0 || r.Generation < 0:
		return errors.New("the record is damaged: a size is negative")
	}
	for _, f := range r.Forwards {
		if !f.Valid() {
			return fmt.Errorf("the record is damaged: %q is no forwarded port", clip(f.String()))
		}
	}
	for _, d := range r.Displaced {
		if !d.Valid() {
			return fmt.Errorf("the record is damaged: %q is no forwarded port", clip(d.String()))
		}
	}
	for _, p := range r.paths() {
		if *p != "" && !filepath.IsAbs(*p) && !filepath.IsLocal(*p) {
			return fmt.Errorf("the record is damaged: path %q leaves the state folder", clip(*p))
		}
	}
	return nil
}

// encode is the record's stored form: indented, because people look at it.
func encode(r Record) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil && len(r.Unknown) > 0 {
		data, err = r.withUnknown(data)
	}
	if err == nil && len(data) >= maxRecord {
		err = fmt.Errorf("it would take %d bytes, the limit is %d", len(data), maxRecord)
	}
	return append(data, '\n'), err
}

// withUnknown adds what a newer program wrote to the known fields.
func (r Record) withUnknown(known []byte) ([]byte, error) {
	all := map[string]any{}
	for name, value := range r.Unknown {
		all[name] = value
	}
	var ours map[string]json.RawMessage
	if err := json.Unmarshal(known, &ours); err != nil {
		return nil, err
	}
	for name, raw := range ours {
		all[name] = raw
	}
	return json.MarshalIndent(all, "", "  ")
}

// paths are the fields that hold paths.
func (r *Record) paths() []*string {
	all := []*string{&r.Image.Kernel, &r.Image.Modules, &r.Extra}
	for i := range r.Image.Layers {
		all = append(all, &r.Image.Layers[i].Path)
	}
	return all
}

// relocate returns the record with every path changed by f, sharing nothing
// that it changes with the original.
func (r Record) relocate(f func(string) string) Record {
	r.Image.Layers = append([]Layer(nil), r.Image.Layers...)
	for _, p := range r.paths() {
		if *p != "" {
			*p = f(*p)
		}
	}
	return r
}

// stored gives the form in which paths inside home are relative to it.
func (r Record) stored(home string) Record {
	return r.relocate(func(p string) string {
		if rel, err := filepath.Rel(home, p); err == nil && filepath.IsLocal(rel) {
			return rel
		}
		return p
	})
}

// located undoes stored.
func (r Record) located(home string) Record {
	return r.relocate(func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(home, p)
	})
}
