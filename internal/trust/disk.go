package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// readJSON reads a regular file of at most limit bytes. A link, a FIFO or a
// device in its place is refused, not followed and not waited for.
func readJSON(path string, limit int64, into any) error {
	raw, err := readRegular(path, limit)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func readRegular(path string, limit int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	raw, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return raw, err
}

// keep replaces a file unless it holds the same: write beside, fsync, rename,
// fsync the folder.
func (m *Memory) keep(folder, name string, raw []byte, limit int64) error {
	path := filepath.Join(folder, name)
	if there, err := readRegular(path, limit); err == nil && bytes.Equal(there, raw) {
		return nil
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
		err = os.Rename(temp.Name(), path)
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
