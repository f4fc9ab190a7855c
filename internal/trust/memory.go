package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	serialPrefix = "serial-"
	lastPrefix   = "last-"
	keysPrefix   = "keys-"
	jsonSuffix   = ".json"
	tempPrefix   = ".last-"
	// maxLast bounds the kept copy: a manifest of 4 MiB in base64 and signatures.
	maxLast = 8 << 20
	// maxList bounds a kept key list: 16 KiB in base64 and 64 signatures.
	maxList = 1 << 20
	// orphanAge is when a temporary file cannot belong to a living write any more.
	orphanAge = time.Hour
)

// Memory remembers, for every catalogue, the highest serial seen, the last
// manifest believed and the key lists followed. Each catalogue has a folder named
// after its address:
//
//	serial-N     empty; N is the highest serial seen
//	last-N.json  the manifest of serial N, as it was published
//	keys-N.json  key list N, as it was published
//
// The numbers are in the names: creating a file is atomic, two processes cannot
// lower what the other wrote, and there is no content to corrupt. Deleting the
// folder takes the memory back to what the build says. Neither it nor the folder
// of them all may be a link, or open to everybody's writing.
type Memory struct {
	dir string
	now func() time.Time
}

// NewMemory keeps its folders in dir, which is made when something is first
// remembered.
func NewMemory(dir string, now func() time.Time) *Memory { return &Memory{dir: dir, now: now} }

// Document is a manifest as it was published.
type Document struct {
	Address    string            `json:"address"` // on disk without a password
	Raw        []byte            `json:"raw"`
	Signatures map[string][]byte `json:"signatures"` // by key id
	// Keys are the key lists that lead from the keys that were given to those
	// that signed, ascending.
	Keys []SignedFile `json:"keys,omitempty"`
}

// kept is the content of last-N.json. The key lists have files of their own: two
// processes that remember at once must not take each other's away.
type kept struct {
	Document
	KeyLists []int `json:"key_lists,omitempty"` // that were there, by version
}

// Seen is what is remembered of a catalogue.
type Seen struct {
	Serial int64        // the highest; 0: none
	Last   *Document    // nil: none, or it is damaged
	Keys   []SignedFile // the key lists followed, ascending
	// Damage says, ready to be shown, what is lost or spoilt.
	Damage []string
}

// Folder is where a catalogue's memory is kept.
func (m *Memory) Folder(address string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:8]))
}

// Seen reads the memory of a catalogue. What is damaged is told and passed over;
// an error means that nothing could be read. The document and the key lists have
// to be verified like those that were just downloaded.
func (m *Memory) Seen(address string) (Seen, error) {
	folder := m.Folder(address)
	there, err := m.own(folder)
	if err != nil {
		return Seen{}, fmt.Errorf("read what was seen of %s: %w", shown(address), err)
	}
	names, err := m.list(folder)
	if err != nil {
		return Seen{}, fmt.Errorf("read what was seen of %s: %w", shown(address), err)
	}
	r := recollection{folder: folder, address: address, names: names, there: there}
	r.readKeys()
	r.readLast()
	r.readSerial()
	return r.seen, nil
}

// recollection reads one folder.
type recollection struct {
	folder, address string
	names           []string
	there           bool // the folder: something was remembered in it
	seen            Seen
}

func (r *recollection) damaged(format string, args ...any) {
	r.seen.Damage = append(r.seen.Damage, fmt.Sprintf("in the memory of %s (%s) ", shown(r.address), r.folder)+fmt.Sprintf(format, args...))
}

func (r *recollection) readKeys() {
	for _, version := range slices.Sorted(maps.Keys(numbers(r.names, keysPrefix, jsonSuffix))) {
		var list SignedFile
		err := readJSON(filepath.Join(r.folder, KeyListFile(int(version))), maxList, &list)
		if err == nil && int64(list.Version) != version {
			err = fmt.Errorf("it holds key list %d", list.Version)
		}
		if err != nil {
			r.damaged("key list %d cannot be read: the keys before it count again until it was downloaded anew: %v", version, err)
			continue
		}
		r.seen.Keys = append(r.seen.Keys, list)
	}
}

// readLast takes the newest copy only: an older one would be refused.
func (r *recollection) readLast() {
	newest := highest(numbers(r.names, lastPrefix, jsonSuffix))
	if newest == 0 {
		return
	}
	var last kept
	err := readJSON(filepath.Join(r.folder, lastName(newest)), maxLast, &last)
	if err == nil && shown(last.Address) != shown(r.address) {
		err = fmt.Errorf("it is that of %s", shown(last.Address))
	}
	if err != nil {
		r.damaged("the manifest seen last cannot be read and does not help without a network: %v", err)
		return
	}
	last.Address, last.Keys = r.address, r.seen.Keys
	r.seen.Last = &last.Document
	for _, version := range last.KeyLists {
		if !slices.ContainsFunc(r.seen.Keys, func(list SignedFile) bool { return list.Version == version }) {
			r.damaged("key list %d is lost: the keys before it count again until it was downloaded anew", version)
		}
	}
}

// readSerial also takes the number in the name of the copy: removing the mark
// alone does not bring an old manifest back.
func (r *recollection) readSerial() {
	mark, copied := highest(numbers(r.names, serialPrefix, "")), highest(numbers(r.names, lastPrefix, jsonSuffix))
	r.seen.Serial = max(mark, copied)
	for _, name := range r.names {
		if text, ok := strings.CutPrefix(name, serialPrefix); ok && number(text) == 0 {
			r.damaged("%.60q is no serial; SmolVM writes no such file: find out who did, and remove it", name)
		}
	}
	switch {
	case mark < copied:
		r.damaged("the mark of the newest serial seen is lost; the %d of the manifest seen last counts", copied)
	case r.seen.Serial == 0 && r.there: // deleting the folder is how a person forgets, emptying it is not
		r.damaged("the newest serial seen is lost; only manifests older than this program's own are known to be old")
	}
}

// Highest is the highest serial seen at the address; 0 when none was.
func (m *Memory) Highest(address string) (int64, error) {
	seen, err := m.Seen(address)
	return seen.Serial, err
}

// Last is the document remembered for the address. It has to be verified like
// one that was just downloaded.
func (m *Memory) Last(address string) (Document, error) {
	seen, err := m.Seen(address)
	switch {
	case err != nil:
		return Document{}, err
	case seen.Last != nil:
		return *seen.Last, nil
	case len(seen.Damage) > 0:
		return Document{}, errors.New(strings.Join(seen.Damage, "; "))
	}
	return Document{}, fmt.Errorf("read the remembered manifest of %s: %w", shown(address), fs.ErrNotExist)
}

// Remember keeps a believed document, the key lists that were followed to
// believe it, and its serial.
func (m *Memory) Remember(doc Document, serial int64) error {
	folder := m.Folder(doc.Address)
	if _, err := m.own(folder); err != nil {
		return fmt.Errorf("remember the manifest of %s: %w", shown(doc.Address), err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("remember the manifest of %s: %w", shown(doc.Address), err)
	}
	m.sweep(folder)
	for _, list := range doc.Keys {
		if err := m.keepList(folder, list); err != nil {
			return fmt.Errorf("remember key list %d of %s: %w", list.Version, shown(doc.Address), err)
		}
	}
	if err := m.mark(folder, serial); err != nil {
		return fmt.Errorf("remember serial %d of %s: %w", serial, shown(doc.Address), err)
	}
	if err := m.keepLast(folder, doc, serial); err != nil {
		return fmt.Errorf("remember the manifest of %s: %w", shown(doc.Address), err)
	}
	return nil
}

func (m *Memory) keepList(folder string, list SignedFile) error {
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return m.keep(folder, KeyListFile(list.Version), raw, maxList)
}

func (m *Memory) keepLast(folder string, doc Document, serial int64) error {
	last := kept{Document: doc}
	for _, list := range doc.Keys {
		last.KeyLists = append(last.KeyLists, list.Version)
	}
	last.Address, last.Keys = shown(doc.Address), nil
	raw, err := json.Marshal(last)
	if err != nil {
		return err
	}
	if err := m.keep(folder, lastName(serial), raw, maxLast); err != nil {
		return err
	}
	return m.removeLower(folder, lastPrefix, jsonSuffix, serial)
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
	return m.removeLower(folder, serialPrefix, "", serial)
}

func (m *Memory) removeLower(folder, prefix, suffix string, serial int64) error {
	names, err := m.list(folder)
	if err != nil {
		return err
	}
	for n, name := range numbers(names, prefix, suffix) {
		if n >= serial {
			continue
		}
		if err := os.Remove(filepath.Join(folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// list gives the names in a folder that mean something; none where there is no
// folder.
func (m *Memory) list(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func lastName(serial int64) string { return lastPrefix + strconv.FormatInt(serial, 10) + jsonSuffix }

// numbers are the numbers in names of one form, with the names.
func numbers(names []string, prefix, suffix string) map[int64]string {
	found := map[int64]string{}
	for _, name := range names {
		text, ok := strings.CutPrefix(name, prefix)
		if !ok || !strings.HasSuffix(text, suffix) {
			continue
		}
		if n := number(strings.TrimSuffix(text, suffix)); n > 0 {
			found[n] = name
		}
	}
	return found
}

// number is a positive number as it is written here, else 0.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != text {
		return 0
	}
	return n
}

func highest(found map[int64]string) int64 {
	var most int64
	for n := range found {
		most = max(most, n)
	}
	return most
}
