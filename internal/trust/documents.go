package trust

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Documents are the manifests seen last, one of each catalogue. What cannot be
// read is left out; nothing is verified again.
func (m *Memory) Documents() ([]Document, error) {
	if _, err := m.own(m.dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var documents []Document
	for _, entry := range entries {
		folder := filepath.Join(m.dir, entry.Name())
		names, err := m.list(folder)
		if err != nil || !entry.IsDir() {
			continue
		}
		newest := highest(numbers(names, lastPrefix, jsonSuffix))
		var last kept
		if newest > 0 && readJSON(filepath.Join(folder, lastName(newest)), maxLast, &last) == nil {
			documents = append(documents, last.Document)
		}
	}
	return documents, nil
}
