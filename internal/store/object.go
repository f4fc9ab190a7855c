package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Files of an object's folder, and the bounds of the small ones in bytes.
const (
	contentFile = "content"
	indexFile   = "index.json"
	recordFile  = "record.json"
	archiveFile = "archive.zst"
	maxRecord   = 16 << 10
	maxIndex    = 64 << 20
	schema      = 1
)

// State says how far an object can be used.
type State string

// The states.
const (
	Absent   State = "absent"   // to be fetched
	Ready    State = "ready"    // unchanged since its bytes were verified
	Doubtful State = "doubtful" // something touched it: verify every byte, or replace it
	Foreign  State = "foreign"  // a newer version of SmolVM keeps it: not to be touched
)

// Origin says where an object came from.
type Origin struct {
	Name    string          `json:"name"`    // of the asset
	Archive manifest.Digest `json:"archive"` // the published file it was expanded from
	Content manifest.Digest `json:"content"` // the expanded file
}

// Object is one expanded file of the store.
type Object struct {
	Key       string
	State     State
	Path      string // of the content; read-only
	Archive   string // path of the archive that is kept, "" if none
	Origin    Origin
	Allocated int64     // bytes on disk, the kept archive included
	Used      time.Time // last lease or change
	// Partial is what an interrupted download of an Absent object has left, in
	// bytes on disk: about as much of the expanded file need not come again.
	Partial int64
}

// record is what record.json holds.
type record struct {
	Schema   int      `json:"schema"`
	Origin   Origin   `json:"origin"`
	Identity Identity `json:"identity"`
}

// errNewer says that a file was written by a newer version.
var errNewer = errors.New("written by a newer version of SmolVM")

// Lookup tells the state of an object. It reads one small file and no content.
// A change that another process is just recording is waited for.
func (s *Store) Lookup(ctx context.Context, key string) (Object, error) {
	if !manifest.IsSHA256(key) {
		return Object{}, fmt.Errorf("look up %.80q in the store: not a SHA-256", key)
	}
	object := s.look(key)
	if object.State != Doubtful {
		return object, nil
	}
	lock, err := s.lock(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return Object{}, err
		}
		return object, nil // a store we cannot write to: nobody is recording
	}
	defer lock.Unlock()
	return s.look(key), nil
}

// Objects are all that are there, sorted by key, in whatever state. Folders whose
// names are no keys belong to somebody else and are left out.
func (s *Store) Objects(ctx context.Context) ([]Object, error) {
	entries, err := os.ReadDir(s.objects)
	if err != nil {
		return nil, storage(s.objects, "list", err)
	}
	var objects []Object
	for _, entry := range entries {
		if !manifest.IsSHA256(entry.Name()) {
			continue
		}
		object, err := s.Lookup(ctx, entry.Name())
		if err != nil {
			return nil, err
		}
		if object.State != Absent {
			objects = append(objects, object)
		}
	}
	return objects, nil
}

func (s *Store) look(key string) Object {
	object := Object{Key: key, State: Absent, Path: filepath.Join(s.folder(key), contentFile)}
	info, err := os.Lstat(s.folder(key))
	if err != nil {
		object.Partial = s.Partial(key)
		return object
	}
	object.State, object.Used = Doubtful, info.ModTime()
	if !info.IsDir() {
		return object
	}
	now, err := identify(object.Path)
	object.Allocated = now.Blocks * 512
	archive := filepath.Join(s.folder(key), archiveFile)
	if kept, err := identify(archive); err == nil {
		object.Archive = archive
		object.Allocated += kept.Blocks * 512
	}
	rec, recErr := s.readRecord(key)
	switch {
	case errors.Is(recErr, errNewer):
		object.State = Foreign
	case recErr != nil:
	default:
		object.Origin = rec.Origin
		if err == nil && rec.Identity == now && now.Size == rec.Origin.Content.Size {
			object.State = Ready
		}
	}
	return object
}

// Index returns an object's frame index after comparing it with the key.
func (s *Store) Index(key string) ([]byte, error) {
	raw, err := readFile(filepath.Join(s.folder(key), indexFile), maxIndex)
	if err != nil {
		return nil, fmt.Errorf("read the stored index %.12s: %w", key, err)
	}
	if !keyIs(key, raw) {
		return nil, fmt.Errorf("read the stored index %.12s: its bytes have changed", key)
	}
	return raw, nil
}

func keyIs(key string, index []byte) bool {
	sum := sha256.Sum256(index)
	return hex.EncodeToString(sum[:]) == key
}

func (s *Store) folder(key string) string { return filepath.Join(s.objects, key) }

func (s *Store) readRecord(key string) (record, error) {
	raw, err := readFile(filepath.Join(s.folder(key), recordFile), maxRecord)
	if err != nil {
		return record{}, err
	}
	var rec record
	err = decode(raw, &rec)
	return rec, err
}

// decode reads one JSON value of this program's schema, strictly. One of a later
// schema is errNewer, whatever else is in it.
func decode(raw []byte, value any) error {
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(raw, &version); err == nil && version.Schema > schema {
		return fmt.Errorf("schema %d: %w", version.Schema, errNewer)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(value); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	if version.Schema != schema {
		return fmt.Errorf("schema %d", version.Schema)
	}
	return nil
}

// writeRecord replaces the record; the caller holds the store's lock. The last
// use of the object stays what it was.
func (s *Store) writeRecord(key string, origin Origin, identity Identity) error {
	raw, err := json.MarshalIndent(record{schema, origin, identity}, "", " ")
	if err != nil {
		return err
	}
	info, err := os.Lstat(s.folder(key))
	if err != nil {
		return err
	}
	if err := s.replace(filepath.Join(s.folder(key), recordFile), append(raw, '\n')); err != nil {
		return err
	}
	_ = os.Chtimes(s.folder(key), time.Time{}, info.ModTime()) // another user's folder: it counts as used
	return nil
}
