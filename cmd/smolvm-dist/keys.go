package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// sign writes the signatures of a release's files.
func sign(args []string, out io.Writer) error {
	if err := want(args, 3); err != nil {
		return err
	}
	version, key, files := args[0], args[1], args[2:]
	private, err := os.ReadFile(key)
	if err != nil {
		return fmt.Errorf("read the signing key: %w", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read what is to be signed: %w", err)
		}
		signature, id, err := trust.SignFile(raw, string(private), "smolvm "+version+" "+filepath.Base(file))
		if err != nil {
			return fmt.Errorf("sign %s (a key with a password is for minisign -S itself): %w", file, err)
		}
		if trust.IsDevelopment(id) {
			return fmt.Errorf("key %s is a development key, which signs no release: make one with minisign -G", id)
		}
		if err := write(file+".minisig", signature); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%d files are signed\n", len(files))
	return nil
}

// catalogue is what a release carries: keys, and a manifest that they signed.
func catalogue(args []string, out io.Writer) error {
	if err := want(args, 6); err != nil {
		return err
	}
	at, err := moment(args[1])
	if err != nil {
		return err
	}
	root, err := builtIn(args[2], args[5:])
	if err != nil {
		return err
	}
	fmt.Fprintln(out, strings.Join(root.Keys, ","))
	if from := args[3]; from != "" {
		return carry(from, args[4], args[0], root, at)
	}
	return nil
}

// builtIn reads the public keys.
func builtIn(threshold string, files []string) (trust.Root, error) {
	root := trust.Root{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return root, fmt.Errorf("read a public key: %w", err)
		}
		id, err := trust.KeyID(string(raw))
		if err != nil {
			return root, fmt.Errorf("%s: %w", file, err)
		}
		if trust.IsDevelopment(id) {
			return root, fmt.Errorf("%s: key %s is a development key, which no release believes", file, id)
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		root.Keys = append(root.Keys, strings.TrimSpace(lines[len(lines)-1]))
	}
	n, err := strconv.Atoi(threshold)
	if err != nil || n < 1 || n > len(root.Keys) {
		return root, fmt.Errorf("a threshold of %q of %d keys cannot be met", threshold, len(root.Keys))
	}
	root.Threshold = n
	return root, nil
}

// carry checks a published manifest as the release will, and copies it with its
// signatures and the newest key list. Expiry is judged by the release's own time,
// so that an old release can be built again.
func carry(from, to, version string, root trust.Root, at time.Time) error {
	raw, err := os.ReadFile(filepath.Join(from, "manifest.json"))
	if err != nil {
		return fmt.Errorf("read the manifest to be carried: %w", err)
	}
	if root, err = carryKeys(from, to, root); err != nil {
		return err
	}
	signatures, err := signaturesOf(filepath.Join(from, "manifest.json"))
	if err != nil {
		return err
	}
	policy := trust.Policy{Roots: []trust.Root{root}, Now: at}
	if _, err := policy.Verify(raw, signatures); err != nil {
		return fmt.Errorf("the manifest in %s is not signed by the keys that the release gets: %w", from, err)
	}
	m, err := manifest.Parse(raw)
	switch {
	case err != nil:
		return err
	case policy.Expired(m.Expires):
		return fmt.Errorf("the manifest in %s expired on %s, before this release", from, m.Expires.Format(time.DateOnly))
	case !m.Supports(version):
		return fmt.Errorf("the manifest in %s is for smolvm %s and newer, this is %s", from, m.MinVersion, version)
	}
	for name, signature := range signatures {
		if err := write(filepath.Join(to, name), signature); err != nil {
			return err
		}
	}
	return write(filepath.Join(to, "manifest.json"), raw)
}

// signaturesOf reads the signature files of a file, by name.
func signaturesOf(file string) (map[string][]byte, error) {
	names, err := filepath.Glob(file + ".*.minisig")
	if err != nil {
		return nil, err
	}
	signatures := map[string][]byte{}
	for _, name := range names {
		if signatures[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("read a signature: %w", err)
		}
	}
	return signatures, nil
}

// carryKeys copies the newest key list. Its keys have to be those that were given:
// a release believes its list without asking further.
func carryKeys(from, to string, root trust.Root) (trust.Root, error) {
	newest := 0
	names, err := filepath.Glob(filepath.Join(from, "keys-*.json"))
	for _, name := range names {
		var n int
		if _, scanned := fmt.Sscanf(filepath.Base(name), "keys-%d.json", &n); scanned == nil && n > newest {
			newest = n
		}
	}
	if err != nil || newest == 0 {
		return root, err
	}
	raw, err := os.ReadFile(filepath.Join(from, trust.KeyListFile(newest)))
	if err != nil {
		return root, fmt.Errorf("read the newest key list: %w", err)
	}
	list, err := trust.ParseKeyList(raw)
	if err != nil {
		return root, err
	}
	if !sameKeys(list.Keys, root.Keys) || list.Threshold != root.Threshold {
		return root, errors.New("the keys and the threshold that were given are not those of " + trust.KeyListFile(newest))
	}
	return list.Root(), write(filepath.Join(to, "keys.json"), raw)
}

func sameKeys(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
