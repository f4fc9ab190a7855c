// Command smolvm-devkey makes this checkout's development key, once, and prints
// its public half. Builds of this checkout accept images signed with it; releases
// never do: the key's id says that it is a development key.
//
//	smolvm-devkey DIR
//
// DIR then holds minisign.key (0600, not encrypted) and minisign.pub. The folder is
// put into place whole by one rename, so that two that start together end up with
// the same pair, and a crash leaves no half of one.
package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/trust"
)

// The files of the key.
const (
	privateFile = "minisign.key"
	publicFile  = "minisign.pub"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: smolvm-devkey DIR")
		os.Exit(2)
	}
	public, err := ensure(os.Args[1], rand.Reader)
	if err != nil {
		fmt.Fprintln(os.Stderr, "smolvm-devkey:", err)
		os.Exit(1)
	}
	fmt.Println(public)
}

// ensure returns the public key of dir, as one line, making the pair when there is
// no dir yet.
func ensure(dir string, random io.Reader) (string, error) {
	dir = filepath.Clean(dir)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := create(dir, random); err != nil {
			return "", fmt.Errorf("make the development key: %w", err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, publicFile))
	if err != nil {
		return "", fmt.Errorf("read the development key: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return lines[len(lines)-1], nil
}

// create puts a folder with a new pair into place. The loser of a race keeps the
// winner's pair.
func create(dir string, random io.Reader) error {
	private, public, err := trust.NewDevelopmentKey(random)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".dev-") // 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for name, text := range map[string]string{privateFile: private, publicFile: public} {
		if err := writeSynced(filepath.Join(work, name), text); err != nil {
			return err
		}
	}
	if err := os.Rename(work, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}
