package release

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/store"
)

// TestSavedTarIsOrdinary reads it with Go's reader and with GNU tar.
func TestSavedTarIsOrdinary(t *testing.T) {
	data := saved(t)
	reader := tar.NewReader(bytes.NewReader(data))
	names := map[string]bool{}
	for {
		head, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		if head.Typeflag != tar.TypeReg || head.Mode != 0o644 || names[head.Name] {
			t.Errorf("%+v", head)
		}
		names[head.Name] = true
		sum := sha256.New()
		_, err = io.Copy(sum, reader)
		check(t, err)
		if want, ok := strings.CutPrefix(head.Name, "frames/"); ok && hex.EncodeToString(sum.Sum(nil)) != want {
			t.Errorf("%s holds something else", head.Name)
		}
	}
	if !names[listFile] || !names[manifestFile] {
		t.Errorf("entries %v", names)
	}
	file := filepath.Join(t.TempDir(), "images.tar")
	check(t, os.WriteFile(file, data, 0o600))
	out, err := exec.Command("tar", "--list", "--file", file).CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != len(names) {
		t.Errorf("tar lists %s, %v", out, err)
	}
}

func TestSameInputSameBytes(t *testing.T) {
	if again := save(t, codex, claude, codex); !bytes.Equal(again, saved(t)) {
		t.Error("another home and another order give another tar")
	}
}

// Frames that assets share are there once, zero frames never.
func TestSharedFramesAreSavedOnce(t *testing.T) {
	one := len(save(t, claude))
	if both := len(saved(t)); both > one+3*frameSize {
		t.Errorf("one image %d bytes, two that share nearly all %d", one, both)
	}
}

func TestSaveFile(t *testing.T) {
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	h.pull(t, c, claude)
	dir := t.TempDir()
	path := filepath.Join(dir, "a b.tar")
	check(t, os.WriteFile(filepath.Join(dir, ".a b.tar.part"), bytes.Repeat([]byte("left"), 1<<20), 0o600)) // of a killed run
	check(t, os.WriteFile(path, []byte("older"), 0o600))
	s, err := SaveFile(t.Context(), h.store, c, []Image{claude}, path, h.options())
	check(t, err)
	data, err := os.ReadFile(path)
	check(t, err)
	if int64(len(data)) != s.Bytes || s.Release != "1.0.0" || s.Serial != 7 || s.Address != c.Address {
		t.Errorf("%+v, file of %d", s, len(data))
	}
	only(t, dir, "a b.tar")
	if _, err := newHome(t).load(t.Context(), bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
	if !h.log.has(event.Save, event.Start) || !h.log.has(event.Save, event.Done) {
		t.Error(h.log.text())
	}
}

// A planted link is replaced, not followed; a folder or FIFO is no place for a tar.
func TestSaveFileToPlantedPaths(t *testing.T) {
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	h.pull(t, c, claude)
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	check(t, os.WriteFile(victim, []byte("mine"), 0o600))
	check(t, os.Symlink(victim, filepath.Join(dir, ".x.tar.part")))
	_, err := SaveFile(t.Context(), h.store, c, []Image{claude}, filepath.Join(dir, "x.tar"), h.options())
	check(t, err)
	check(t, os.Remove(filepath.Join(dir, "x.tar")))
	check(t, os.Link(victim, filepath.Join(dir, ".x.tar.part")))
	_, err = SaveFile(t.Context(), h.store, c, []Image{claude}, filepath.Join(dir, "x.tar"), h.options())
	check(t, err)
	if data, _ := os.ReadFile(victim); string(data) != "mine" {
		t.Error("written through a link")
	}
	check(t, os.Symlink(victim, filepath.Join(dir, "link.tar")))
	for _, name := range []string{".", "link.tar"} {
		_, err := SaveFile(t.Context(), h.store, c, []Image{claude}, filepath.Join(dir, name), h.options())
		if fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSaveOfWhatIsNotHere(t *testing.T) {
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	path := filepath.Join(t.TempDir(), "x.tar")
	_, err := SaveFile(t.Context(), h.store, c, []Image{claude}, path, h.options())
	if fault.CodeOf(err) != fault.NotFound || !strings.Contains(fault.HintOf(err), "pull") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
	if _, err := Save(t.Context(), h.store, c, []Image{{"nobody", "amd64", "qemu"}}, io.Discard, h.options()); fault.CodeOf(err) != fault.NotFound {
		t.Error(err)
	}
	only(t, filepath.Dir(path))
}

// A byte that changed in the store is found while it is read, even where nothing
// about the file says that anybody touched it. What was written is no tar of
// images, and the object has to be looked at before it boots again.
func TestSaveOfAlteredBytes(t *testing.T) {
	for name, alter := range map[string]func(path string) error{
		"data": func(path string) error { return flip(path, 10_000) },
		"hole": func(path string) error { return flip(path, frameSize+5) },
		"cut":  func(path string) error { return os.Truncate(path, 4096) },
		"gone": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			c := h.catalogue(t, publisher(t).Address)
			h.pull(t, c, claude)
			key := c.Manifest.Rows[0].Layers[0].Index.SHA256
			object, err := h.store.Lookup(t.Context(), key)
			check(t, err)
			check(t, os.Chmod(object.Path, 0o600))
			check(t, alter(object.Path))
			var out bytes.Buffer
			_, err = Save(t.Context(), h.store, c, []Image{claude}, &out, h.options())
			if fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "base") || !strings.Contains(fault.HintOf(err), "repair") {
				t.Errorf("%v, hint %q", err, fault.HintOf(err))
			}
			if after, err := h.store.Lookup(t.Context(), key); err != nil || after.State == store.Ready {
				t.Errorf("the object is %s, %v", after.State, err)
			}
			to := newHome(t)
			if _, err := to.load(t.Context(), &out); err == nil {
				t.Error("the rest was loaded")
			}
			to.isEmpty(t)
		})
	}
}

// TestSaveFileThatFails leaves nothing behind.
func TestSaveFileThatFails(t *testing.T) {
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	h.pull(t, c, claude)
	object, err := h.store.Lookup(t.Context(), c.Manifest.Rows[0].Layers[1].Index.SHA256)
	check(t, err)
	check(t, os.Chmod(object.Path, 0o600))
	check(t, flip(object.Path, 10_000))
	dir := t.TempDir()
	if _, err := SaveFile(t.Context(), h.store, c, []Image{claude}, filepath.Join(dir, "x.tar"), h.options()); err == nil {
		t.Error("saved")
	}
	only(t, dir)
}

// A tar is handed on: it does not say how this user logs in.
func TestSavedAddressHasNoSecrets(t *testing.T) {
	for from, want := range map[string]string{
		"https://me:secret@example.org/i/manifest.json?token=x": "https://example.org/i/manifest.json",
		"oci://example.org/i:1#manifest.json":                   "oci://example.org/i:1#manifest.json",
		"/srv/x/manifest.json":                                  "/srv/x/manifest.json",
	} {
		if got := handedOn(from); got != want {
			t.Errorf("%s became %s", from, got)
		}
	}
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err = f.ReadAt(b, at); err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b, at)
	}
	return errors.Join(err, f.Close())
}

// only fails when a folder holds other names.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	if strings.Join(found, "|") != strings.Join(names, "|") {
		t.Errorf("%s holds %q instead of %q", dir, found, names)
	}
}

func (l *log) has(stage event.Stage, kind event.Kind) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Stage == stage && e.Kind == kind {
			return true
		}
	}
	return false
}
