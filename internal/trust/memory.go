package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

const (
	serialPrefix = "serial-"
	lastFile     = "last.json"
	tempPrefix   = ".last-"
	// maxLast bounds the kept copy: a manifest of 4 MiB in base64 and signatures.
	maxLast = 8 << 20
	// orphanAge is when a temporary file cannot belong to a living write any more.
	orphanAge = time.Hour
)

// Memory remembers, for every catalogue, the highest serial seen and the last
// manifest believed. Each catalogue has a folder named after its address, and
// the serial is the name of an empty file in it: creating a file is atomic, two
// processes cannot lower what the other wrote, and there is no content to
// corrupt. Deleting the folder takes the memory back to the floor.
type Memory struct {
	dir string
	now func() time.Time
}

// NewMemory keeps its folders in dir, which is made when something is first
// remembered.
func NewMemory(dir string, now func() time.Time) *Memory { return &Memory{dir: dir, now: now} }

// Document is a manifest as it was published.
type Document struct {
	Address    string            `json:"address"`
	Raw        []byte            `json:"raw"`
	Signatures map[string][]byte `json:"signatures"` // by key id
	// Keys are the key lists that lead from the keys that were given to those
	// that signed, ascending.
	Keys []SignedFile `json:"keys,omitempty"`
}

// Folder is where a catalogue's memory is kept.
func (m *Memory) Folder(address string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:8]))
}

// Highest is the highest serial seen at the address; 0 when none was.
func (m *Memory) Highest(address string) (int64, error) {
	entries, err := os.ReadDir(m.Folder(address))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read the newest serial seen of %s: %w", address, err)
	}
	var highest int64
	for _, entry := range entries {
		text, ok := strings.CutPrefix(entry.Name(), serialPrefix)
		if n, err := strconv.ParseInt(text, 10, 64); ok && err == nil {
			highest = max(highest, n)
		}
	}
	return highest, nil
}

// Check refuses a serial lower than the highest one seen or the floor (the
// serial of the manifest this program was released with; 0 for none).
func (m *Memory) Check(address string, serial, floor int64) error {
	highest, err := m.Highest(address)
	if err != nil {
		return err
	}
	if least := max(highest, floor); serial < least {
		return fault.New(fault.Trust,
			fmt.Sprintf("Somebody serves an old catalogue, or its publisher went back. If you know that it is right, remove %s.", m.Folder(address)),
			"check the manifest at %s: its serial %d is older than %d, which was already seen", address, serial, least)
	}
	return nil
}

// Remember keeps a believed document and its serial.
func (m *Memory) Remember(doc Document, serial int64) error {
	folder := m.Folder(doc.Address)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("remember the manifest of %s: %w", doc.Address, err)
	}
	if err := m.mark(folder, serial); err != nil {
		return fmt.Errorf("remember serial %d of %s: %w", serial, doc.Address, err)
	}
	if err := m.keep(folder, doc); err != nil {
		return fmt.Errorf("remember the manifest of %s: %w", doc.Address, err)
	}
	return nil
}

// Last is the document remembered for the address. It has to be verified like
// one that was just downloaded.
func (m *Memory) Last(address string) (Document, error) {
	file, err := os.Open(filepath.Join(m.Folder(address), lastFile))
	if err != nil {
		return Document{}, fmt.Errorf("read the remembered manifest of %s: %w", address, err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxLast+1))
	if err != nil {
		return Document{}, fmt.Errorf("read the remembered manifest of %s: %w", address, err)
	}
	var doc Document
	if len(raw) > maxLast {
		return Document{}, fmt.Errorf("read the remembered manifest of %s: it is too large", address)
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return Document{}, fmt.Errorf("read the remembered manifest of %s: %w", address, err)
	}
	if doc.Address != address {
		return Document{}, fmt.Errorf("read the remembered manifest of %s: it is that of %s", address, doc.Address)
	}
	return doc, nil
}

// mark adds the serial and then removes lower ones, in that order: a crash
// between leaves one mark too many, never one too few.
func (m *Memory) mark(folder string, serial int64) error {
	name := serialPrefix + strconv.FormatInt(serial, 10)
	file, err := os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	if err := errors.Join(file.Close(), syncDir(folder)); err != nil {
		return err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, ok := strings.CutPrefix(entry.Name(), serialPrefix)
		if n, err := strconv.ParseInt(text, 10, 64); ok && err == nil && n < serial {
			if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// keep replaces the copy: write beside, fsync, rename, fsync the folder.
func (m *Memory) keep(folder string, doc Document) error {
	m.sweep(folder)
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(folder, tempPrefix)
	if err != nil {
		return err
	}
	_, err = temp.Write(raw)
	if err == nil {
		err = errors.Join(temp.Chmod(0o644), temp.Sync())
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), filepath.Join(folder, lastFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return syncDir(folder)
}

// sweep removes temporary files of writes that were killed. What it cannot
// remove it leaves for the next time.
func (m *Memory) sweep(folder string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && strings.HasPrefix(entry.Name(), tempPrefix) && m.now().Sub(info.ModTime()) > orphanAge {
			_ = os.Remove(filepath.Join(folder, entry.Name()))
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
