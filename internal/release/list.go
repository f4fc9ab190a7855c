package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/trust"
)

// The files of a tar, in this order: the list, the manifest, its signatures, each
// key list with its signatures, the frame indexes, the frames.
const (
	listFile     = "smolvm-images.json"
	manifestFile = "manifest.json"

	listSchema = 1
	maxList    = 1 << 20 // bytes
	maxImages  = 4096
	maxSigners = 64
	maxAddress = 4096
	maxIndexes = 64 << 20 // bytes of all indexes of a tar together
)

// list is the first file of a tar: what follows. Nobody has signed it, so nothing
// in it is believed; it only says in which order what is signed comes.
type list struct {
	Schema   int        `json:"schema"`
	Manifest string     `json:"manifest"`  // address of the catalogue
	Signers  []string   `json:"signers"`   // key ids of the manifest's signatures
	KeyLists []keysFile `json:"key_lists"` // rising
	Images   []Image    `json:"images"`    // sorted
}

// keysFile is a key list that follows.
type keysFile struct {
	Version int      `json:"version"`
	Signers []string `json:"signers"`
}

func indexEntry(key string) string     { return "indexes/" + key + ".json" }
func frameEntry(content string) string { return "frames/" + content }

// encode is the only form of a list that parseList accepts.
func (l list) encode() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(l); err != nil {
		return nil, fmt.Errorf("write %s: %w", listFile, err)
	}
	return out.Bytes(), nil
}

// parseList reads the list of a tar. One of a newer form is refused as such,
// whatever else is in it.
func parseList(raw []byte) (list, error) {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return list{}, fault.New(fault.Trust, copyHint, "%s: %w", listFile, err)
	}
	if head.Schema > listSchema {
		return list{}, fault.New(fault.Trust, "Install the smolvm that wrote it, or a newer one.",
			"it is of format %d, this smolvm reads %d", head.Schema, listSchema)
	}
	var l list
	err := json.Unmarshal(raw, &l)
	if err == nil {
		err = l.validate()
	}
	if err != nil {
		return list{}, fault.New(fault.Trust, copyHint, "%s: %w", listFile, err)
	}
	canonical, err := l.encode()
	if err != nil || !bytes.Equal(canonical, raw) {
		return list{}, fault.New(fault.Trust, copyHint, "%s: not in the form `smolvm image save` writes", listFile)
	}
	return l, nil
}

func (l list) validate() error {
	switch {
	case l.Schema != listSchema:
		return fmt.Errorf("format %d", l.Schema)
	case !isAddress(l.Manifest):
		return fmt.Errorf("%.80q is not the address of a manifest", l.Manifest)
	case len(l.Images) < 1 || len(l.Images) > maxImages:
		return fmt.Errorf("%d images, 1 to %d are allowed", len(l.Images), maxImages)
	case !slices.Equal(sorted(l.Images), l.Images):
		return errors.New("its images are not sorted, or twice there")
	case len(l.KeyLists) > trust.MaxChain:
		return fmt.Errorf("%d key lists, at most %d are allowed", len(l.KeyLists), trust.MaxChain)
	}
	last := 0
	for _, file := range l.KeyLists {
		if file.Version <= last {
			return errors.New("its key lists do not rise")
		}
		last = file.Version
		if err := checkSigners(file.Signers); err != nil {
			return err
		}
	}
	return checkSigners(l.Signers)
}

func checkSigners(ids []string) error {
	if len(ids) > maxSigners || !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		return errors.New("its signers are too many, not sorted, or twice there")
	}
	for _, id := range ids {
		if len(id) != 16 || strings.Trim(id, "0123456789ABCDEF") != "" {
			return fmt.Errorf("%.40q is not the id of a key", id)
		}
	}
	return nil
}

// isAddress accepts what names the same file wherever it is read, and can be
// shown on a terminal.
func isAddress(address string) bool {
	plain := utf8.ValidString(address) && len(address) <= maxAddress &&
		!strings.ContainsFunc(address, func(r rune) bool { return !unicode.IsPrint(r) })
	return plain && (strings.Contains(address, "://") || filepath.IsAbs(address))
}

// handedOn is an address without the name, password and token that this user
// may need to read it: a tar is handed on.
func handedOn(address string) string {
	if !strings.Contains(address, "://") {
		return address
	}
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// readSigned reads a signed file and its signatures.
func readSigned(t *tarReader, name string, limit int64, signers []string) (raw []byte, signatures map[string][]byte, err error) {
	if raw, err = t.file(name, limit); err != nil {
		return nil, nil, err
	}
	signatures = make(map[string][]byte, len(signers))
	for _, id := range signers {
		if signatures[id], err = t.file(trust.SignatureFile(name, id), trust.MaxSignature); err != nil {
			return nil, nil, err
		}
	}
	return raw, signatures, nil
}

// item is one small file of a tar, ready to be written.
type item struct {
	name  string
	data  []byte
	final bool // no other bytes ever have this name
}

// signed are a signed file and its signatures in the order of a tar.
func signed(name string, raw []byte, signatures map[string][]byte) (items []item, signers []string) {
	items = []item{{name: name, data: raw}}
	for id := range signatures {
		signers = append(signers, id)
	}
	slices.Sort(signers)
	for _, id := range signers {
		items = append(items, item{name: trust.SignatureFile(name, id), data: signatures[id]})
	}
	return items, signers
}
