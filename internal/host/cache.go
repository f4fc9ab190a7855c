package host

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/fault"
)

// maxCache bounds the cache file that is read.
const maxCache = 16 << 10

// key is what a verdict depends on.
type key struct {
	BootID    string `json:"boot_id"`
	Microcode string `json:"microcode"`
	VMM       string `json:"vmm"`    // SHA-256
	Kernel    string `json:"kernel"` // SHA-256
}

// file identifies the VMM's program. Its digest is only computed again when one
// of these changed: hashing QEMU at every launch would cost as much as a probe.
type file struct {
	Path  string `json:"path"`
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime_ns"`
	Inode uint64 `json:"inode"`
}

// record is the cache file.
type record struct {
	Key     key     `json:"key"`
	VMM     file    `json:"vmm"` // what Key.VMM is the digest of
	Verdict Verdict `json:"verdict"`
}

// recall reads the cache; a missing or damaged one knows nothing.
func recall(path string) (record, bool) {
	var r record
	if path == "" {
		return r, false
	}
	f, err := os.Open(path)
	if err != nil {
		return r, false
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxCache))
	if err != nil || json.Unmarshal(text, &r) != nil {
		return record{}, false
	}
	return r, true
}

// remember replaces the cache atomically. It is not synced: after a power loss
// the verdict belongs to an earlier boot anyway.
func remember(path string, r record) error {
	if path == "" {
		return nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep KVM's verdict: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err == nil {
		_, err = temp.Write(append(text, '\n'))
		err = errors.Join(err, temp.Close())
		if err == nil {
			err = os.Rename(temp.Name(), path)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}
	if err != nil {
		return fault.New(fault.Storage, "", "keep KVM's verdict in %s: %w", path, err)
	}
	return nil
}

// identify makes the key of a probe and says which file its VMM is; the digest
// is taken from the cache when the file is the one that was hashed.
func (i Info) identify(o KVMOptions, seen record) (key, file, error) {
	refuse := func(err error) (key, file, error) {
		return key{}, file{}, fault.New(fault.Host, "", "identify the virtual machine monitor: %w", err)
	}
	f, err := os.Open(o.VMM)
	if err != nil {
		return refuse(err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return refuse(err)
	}
	id := key{BootID: i.BootID, Microcode: i.Microcode, Kernel: o.Kernel, VMM: seen.Key.VMM}
	vmm := file{Path: o.VMM, Size: st.Size(), MTime: st.ModTime().UnixNano(), Inode: inode(st)}
	if vmm != seen.VMM {
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return refuse(err)
		}
		id.VMM = hex.EncodeToString(h.Sum(nil))
	}
	return id, vmm, nil
}
