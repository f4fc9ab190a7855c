package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Files of an object's folder, and the bounds of the small ones in bytes.
const (
	contentFile = "content"
	indexFile   = "index.json"
	recordFile  = "record.json"
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
	Doubtful State = "doubtful" // something touched it: verify every byte, or drop it
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
	Origin    Origin
	Allocated int64 // bytes on disk
}

// record is what record.json holds.
type record struct {
	Schema   int      `json:"schema"`
	Origin   Origin   `json:"origin"`
	Identity Identity `json:"identity"`
}

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

func (s *Store) look(key string) Object {
	object := Object{Key: key, State: Absent, Path: filepath.Join(s.folder(key), contentFile)}
	info, err := os.Lstat(s.folder(key))
	if err != nil {
		return object
	}
	object.State = Doubtful
	if !info.IsDir() {
		return object
	}
	now, err := identify(object.Path)
	if err != nil {
		return object
	}
	object.Allocated = now.Blocks * 512
	rec, err := s.readRecord(key)
	if err != nil {
		return object
	}
	object.Origin = rec.Origin
	if rec.Identity == now && now.Size == rec.Origin.Content.Size {
		object.State = Ready
	}
	return object
}

// Index returns an object's frame index after comparing it with the key.
func (s *Store) Index(key string) ([]byte, error) {
	raw, err := readFile(filepath.Join(s.folder(key), indexFile), maxIndex)
	if err != nil {
		return nil, fmt.Errorf("read the stored index %.12s: %w", key, err)
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != key {
		return nil, fmt.Errorf("read the stored index %.12s: its bytes have changed", key)
	}
	return raw, nil
}

func (s *Store) folder(key string) string { return filepath.Join(s.objects, key) }

func (s *Store) readRecord(key string) (record, error) {
	raw, err := readFile(filepath.Join(s.folder(key), recordFile), maxRecord)
	if err != nil {
		return record{}, err
	}
	var rec record
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rec); err != nil {
		return record{}, err
	}
	if rec.Schema != schema {
		return record{}, fmt.Errorf("schema %d", rec.Schema)
	}
	return rec, nil
}

// writeRecord replaces the record; the caller holds the store's lock.
func (s *Store) writeRecord(key string, origin Origin, identity Identity) error {
	raw, err := json.MarshalIndent(record{schema, origin, identity}, "", " ")
	if err != nil {
		return err
	}
	return s.replace(filepath.Join(s.folder(key), recordFile), append(raw, '\n'))
}

// replace puts bytes at a path in one step.
func (s *Store) replace(path string, data []byte) error {
	dir, err := os.MkdirTemp(s.tmp, metaPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	temp := filepath.Join(dir, "new")
	if err := writeFile(temp, data, 0o644); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
