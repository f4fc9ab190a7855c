package script_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

// Frames of the layers that scripts pull: enough to cut, resume and repair.
const (
	baseFrames  = 40
	agentFrames = 16
)

// published is one catalogue for all scripts; each gets a copy.
var published = sync.OnceValues(func() (*catalogue.Catalogue, error) {
	dir, err := os.MkdirTemp("", "smolvm-script-")
	if err != nil {
		return nil, err
	}
	made, err := catalogue.Make(context.Background(), dir, time.Now())
	if err != nil {
		return nil, err
	}
	base, err := made.AddSmall("base", catalogue.SmallDisk(1, baseFrames))
	if err != nil {
		return nil, err
	}
	layer, err := made.AddSmall("claude-code", catalogue.SmallDisk(2, agentFrames))
	if err != nil {
		return nil, err
	}
	for i := range made.Manifest.Rows {
		made.Manifest.Rows[i].Layers = []manifest.Asset{base, layer}
	}
	return made, made.Publish()
})

// siteKey finds the script's site among its values.
type siteKey struct{}

// site is what one script has published, and the servers that serve it.
type site struct {
	made   catalogue.Catalogue // empty before publish
	places map[string]*server  // by name; "" is the catalogue's own
}

// server is one place.
type server struct {
	*faulty.Server
	stop func()
}

// file is the published name of an asset's archive or index, of the image's bill of
// materials or build record, or the name itself.
func (s *site) file(name string) string {
	row := s.made.Manifest.Rows[0]
	for _, asset := range append([]manifest.Asset{row.Kernel.Image, *row.Kernel.Modules}, row.Layers...) {
		switch name {
		case asset.Name:
			return asset.Archive.File
		case asset.Name + ".index":
			return asset.Index.File
		}
	}
	switch name {
	case "sbom":
		return row.SBOM.File
	case "build":
		return row.Build.File
	}
	return name
}

// asset is one of the published image's.
func (s *site) asset(ts *testscript.TestScript, name string) manifest.Asset {
	row := s.made.Manifest.Rows[0]
	for _, asset := range append([]manifest.Asset{row.Kernel.Image, *row.Kernel.Modules}, row.Layers...) {
		if asset.Name == name {
			return asset
		}
	}
	ts.Fatalf("there is no asset %s", name)
	return manifest.Asset{}
}

// at splits PLACE:NAME; the catalogue's own place has no name.
func (s *site) at(ts *testscript.TestScript, word string) (*server, string) {
	place, name, named := strings.Cut(word, ":")
	if !named {
		place, name = "", word
	}
	if s.places[place] == nil {
		ts.Fatalf("there is no place %q", place)
	}
	return s.places[place], s.file(name)
}

// publish [how...] serves a catalogue and sets SMOLVM_MANIFEST and KEY. How is one
// of: unsigned, other-key, expired, serial=N, only=PRESET, release=NAME (with
// another frame in the top layer), mirror=ADDRESS, rotate=N (to key list N and its
// new key), key=FILE (with the private key in FILE), huge, normal (again).
func publish(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: publish [how...]")
	}
	shared, err := published()
	ts.Check(err)
	current := ts.Value(siteKey{}).(*site)
	if current.made.Dir == "" {
		current.made = *shared
		current.made.Manifest.Rows = slices.Clone(shared.Manifest.Rows)
		current.made.Dir = filepath.Join(ts.Getenv("WORK"), "published")
		current.made.Address = filepath.Join(current.made.Dir, "manifest.json")
		ts.Check(os.CopyFS(current.made.Dir, os.DirFS(shared.Dir)))
		ts.Setenv("SMOLVM_MANIFEST", current.serve(ts, "", current.made.Dir)+"/manifest.json")
		key := filepath.Join(ts.Getenv("WORK"), "key.pub")
		ts.Check(os.WriteFile(key, []byte(shared.PublicKey+"\n"), 0o644))
		ts.Setenv("KEY", key)
	}
	for _, how := range args {
		ts.Check(alter(&current.made, shared, how))
	}
}

// place NAME serves a copy of what is published now at another address, which is
// set as NAME.
func place(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: place NAME")
	}
	current := theSite(ts)
	dir := filepath.Join(ts.Getenv("WORK"), args[0])
	ts.Check(os.CopyFS(dir, os.DirFS(current.made.Dir)))
	ts.Setenv(args[0], current.serve(ts, args[0], dir))
}

// serve serves a folder under the name of a place and gives the address.
func (s *site) serve(ts *testscript.TestScript, name, dir string) string {
	made := &server{Server: faulty.New(dir)}
	address, stop := made.Listen()
	made.stop = sync.OnceFunc(stop)
	ts.Defer(made.stop)
	s.places[name] = made
	return address
}

// down [PLACE] stops a server: nobody listens there any more.
func down(ts *testscript.TestScript, _ bool, args []string) {
	server, _ := theSite(ts).at(ts, strings.Join(args, "")+":")
	server.stop()
}

// alter publishes once more, in another way.
func alter(made, shared *catalogue.Catalogue, how string) error {
	word, value, _ := strings.Cut(how, "=")
	number, _ := strconv.Atoi(value)
	switch word {
	case "unsigned":
		return removeSignatures(made.Dir)
	case "other-key":
		return signElse(made)
	case "expired":
		made.Manifest.Created = time.Now().Add(-48 * time.Hour).UTC().Truncate(time.Second)
		made.Manifest.Expires = time.Now().Add(-24 * time.Hour).UTC().Truncate(time.Second)
	case "normal":
		made.Manifest.Rows = slices.Clone(shared.Manifest.Rows)
		made.Manifest.Created, made.Manifest.Expires = shared.Manifest.Created, shared.Manifest.Expires
	case "serial":
		made.Manifest.Serial = int64(number)
	case "only":
		for i := range made.Manifest.Rows {
			made.Manifest.Rows[i].Preset = value
		}
	case "mirror":
		made.Manifest.Mirrors = append(made.Manifest.Mirrors, value)
	case "release":
		made.Manifest.Release = value
		made.Manifest.Serial++
		return renew(made)
	case "rotate":
		return rotate(made, number)
	case "key":
		dir := filepath.Dir(made.Dir)
		return errors.Join(os.WriteFile(filepath.Join(dir, value), []byte(made.PrivateKey), 0o600),
			os.WriteFile(filepath.Join(dir, strings.TrimSuffix(value, filepath.Ext(value))+".pub"), []byte(made.PublicKey), 0o644))
	case "huge":
		for i := range made.Manifest.Rows {
			made.Manifest.Rows[i].Layers = slices.Clone(made.Manifest.Rows[i].Layers)
			made.Manifest.Rows[i].Layers[0].Archive.Size = 1 << 37
			made.Manifest.Rows[i].Layers[0].Content.Size = 1 << 38
		}
	default:
		return fmt.Errorf("unknown way to publish: %s", how)
	}
	return made.Publish()
}

// signElse replaces the signature by another key's under the same name.
func signElse(made *catalogue.Catalogue) error {
	private, _, err := trust.NewKey(rand.Reader)
	if err != nil {
		return err
	}
	signature, _, err := trust.Sign([]byte("something else"), private)
	if err != nil {
		return err
	}
	id, err := trust.KeyID(made.PublicKey)
	if err != nil {
		return err
	}
	return os.WriteFile(trust.SignatureFile(made.Address, id), signature, 0o644)
}

// renew publishes a top layer of which one frame is another.
func renew(made *catalogue.Catalogue) error {
	disk := catalogue.SmallDisk(2, agentFrames)
	catalogue.Change(disk, 5, uint64(made.Manifest.Serial))
	layer, err := made.AddSmall("claude-code", disk)
	if err != nil {
		return err
	}
	for i := range made.Manifest.Rows {
		row := &made.Manifest.Rows[i]
		row.Layers = []manifest.Asset{row.Layers[0], layer}
		row.Agent.Version = "1.2.4"
	}
	return made.Publish()
}

// rotate publishes a key list with one new key, signed by the old and the new
// one, and a manifest that only the new key has signed.
func rotate(made *catalogue.Catalogue, version int) error {
	private, public, err := trust.NewKey(rand.Reader)
	if err != nil {
		return err
	}
	list := trust.KeyList{
		Schema: trust.KeyListSchema, Version: version, Threshold: 1,
		Created: time.Now().UTC().Truncate(time.Second), Keys: []string{strings.TrimSpace(public)},
	}
	if at := strings.LastIndexByte(list.Keys[0], '\n'); at >= 0 {
		list.Keys[0] = list.Keys[0][at+1:]
	}
	raw, err := trust.EncodeKeyList(list)
	if err != nil {
		return err
	}
	path := filepath.Join(made.Dir, trust.KeyListFile(version))
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		return err
	}
	for _, key := range []string{made.PrivateKey, private} {
		signature, id, err := trust.Sign(raw, key)
		if err != nil {
			return err
		}
		if err := os.WriteFile(trust.SignatureFile(path, id), signature, 0o644); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(made.Address); err != nil {
		return err
	}
	old, err := trust.KeyID(made.PublicKey)
	if err != nil {
		return err
	}
	made.PrivateKey, made.PublicKey = private, public
	made.Manifest.Serial++
	return errors.Join(os.Remove(trust.SignatureFile(made.Address, old)), made.Publish())
}

func removeSignatures(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.minisig"))
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

func theSite(ts *testscript.TestScript) *site {
	s := ts.Value(siteKey{}).(*site)
	if s.made.Dir == "" {
		ts.Fatalf("publish comes first")
	}
	return s
}

// fault [PLACE:]ASSET|FILE KIND [AT [TIMES]] spoils the answers for a file, the
// first TIMES of them or all.
func fault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fault FILE KIND [AT [TIMES]]")
	}
	server, file := theSite(ts).at(ts, args[0])
	at, times := int64(1), 0
	var err error
	if len(args) > 2 {
		at, err = strconv.ParseInt(args[2], 10, 64)
		ts.Check(err)
	}
	if len(args) > 3 {
		times, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	faults := map[string]faulty.Fault{
		"none":    {},
		"flip":    {Flip: at},
		"cut":     {Stop: faulty.Cut, After: at},
		"hang":    {Stop: faulty.Hang, After: at},
		"shorten": {Stop: faulty.Shorten, After: at, Chunked: true},
		"plain":   {NoRanges: true},
		"html":    {Body: []byte("<!DOCTYPE html><html><body>Log in</body></html>"), Header: map[string][]string{"Content-Type": {"text/html"}}},
		"json":    {Body: []byte(`{"schema":1,"rows":[`)},
		"gone":    {Status: 404, Body: []byte("no")},
	}
	f, known := faults[args[1]]
	if !known {
		ts.Fatalf("unknown fault %s", args[1])
	}
	f.Times = times
	server.Set(file, f)
}

// requests [PLACE:]ASSET|FILE N compares how often a file was asked for.
func requests(ts *testscript.TestScript, neg bool, args []string) {
	server, file := theSite(ts).at(ts, args[0])
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	if got := server.Requests(file); (got == want) == neg {
		ts.Fatalf("%s was asked for %d times", args[0], got)
	}
}

// wired [PLACE:]ASSET LEAST MOST compares the bytes that were sent of an asset's
// archive since the last time, in hundredths of its size.
func wired(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: wire ASSET LEAST MOST")
	}
	current := theSite(ts)
	server, file := current.at(ts, args[0])
	_, name, named := strings.Cut(args[0], ":")
	if !named {
		name = args[0]
	}
	least, err := strconv.Atoi(args[1])
	ts.Check(err)
	most, err := strconv.Atoi(args[2])
	ts.Check(err)
	key := args[0]
	counted := ts.Value(wireKey{}).(map[string]int64)
	all := server.Sent(file)
	sent := all - counted[key+file]
	counted[key+file] = all
	size := current.asset(ts, name).Archive.Size
	if got := float64(sent) * 100 / float64(size); got < float64(least) || got > float64(most) {
		ts.Fatalf("%d bytes of %s were sent, %.1f %% of it", sent, args[0], got)
	}
}

// wireKey finds what wire has counted among the script's values.
type wireKey struct{}

// served [PLACE:]ASSET N waits until so many bytes of an asset were sent since wire
// looked last.
func served(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: served ASSET N")
	}
	server, file := theSite(ts).at(ts, args[0])
	want, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	want += ts.Value(wireKey{}).(map[string]int64)[args[0]+file]
	for deadline := time.Now().Add(patience); server.Sent(file) < want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain: %d bytes of %s were sent", server.Sent(file), args[0])
		}
	}
}
