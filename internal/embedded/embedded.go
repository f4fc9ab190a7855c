// Package embedded is what the build put into this program: the guest agent for
// each architecture, a release's signed manifest, keys, and the version. It is
// the only room with values set at link time.
//
// There is no input and nothing is kept on disk. A build without some of it (go
// build or go run instead of make build) works up to the point where it is
// needed, and then says so.
//
// A release may hold release/keys.json instead of releaseKeys: the key list (see
// docs/decisions/format-key-list.md) that was the newest when it was built, so
// that key lists are followed from there.
//
// The linker sets, with -X github.com/smolvm/smolvm/internal/embedded.NAME=VALUE:
//
//	version          1.2.3; unset in a development build
//	commit           the full commit hash
//	buildTime        seconds since 1970, the floor of every clock
//	developmentKey   public half of the checkout's own key; never in a release
//	releaseKeys      public keys, separated by commas; only in a release
//	releaseThreshold how many of them have to sign; unset: 1
//	manifestAddress  where a release finds its live manifest
package embedded

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// Set by the linker, see the package comment.
var (
	version          string
	commit           string
	buildTime        string
	developmentKey   string
	releaseKeys      string
	releaseThreshold string
	manifestAddress  string
)

// The patterns name directories with all:, so that their .gitignore makes them
// match in a checkout that has built nothing yet.
var (
	//go:embed all:guest
	guestFiles embed.FS
	//go:embed all:release
	releaseFiles embed.FS
)

// maxAgent bounds the unpacked guest agent in bytes; a real one has about 10 MiB.
const maxAgent = 128 << 20

// Agent is the guest agent's program for an architecture: amd64 or arm64.
func Agent(arch string) ([]byte, error) {
	return agent(guestFiles, arch)
}

// AgentDigest is the SHA-256, in hexadecimal, of the guest agent as it is packed
// into this program. Unpacking both takes 0.1 s; naming them should not.
func AgentDigest(arch string) (string, error) {
	packed, err := packedAgent(guestFiles, arch)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(packed)), nil
}

func packedAgent(files fs.FS, arch string) ([]byte, error) {
	if arch != "amd64" && arch != "arm64" {
		return nil, fault.New(fault.Usage, "Guests are amd64 or arm64.", "there is no guest agent for architecture %q", arch)
	}
	packed, err := fs.ReadFile(files, path.Join("guest", "smolvm-guest-"+arch+".gz"))
	if err != nil {
		return nil, fault.New(fault.Internal, "Build it with make build.",
			"this smolvm was built without the guest agent for %s", arch)
	}
	return packed, nil
}

func agent(files fs.FS, arch string) ([]byte, error) {
	packed, err := packedAgent(files, arch)
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack the guest agent for %s: %w", arch, err)
	}
	program, err := io.ReadAll(io.LimitReader(r, maxAgent+1)) // reads to the end, so the checksum is verified
	if err == nil && len(program) > maxAgent {
		err = fmt.Errorf("it has more than %d bytes", maxAgent)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack the guest agent for %s: %w", arch, err)
	}
	return program, nil
}

// Info says what this program is.
type Info struct {
	Version     string // 1.2.3, or "dev"
	Commit      string // full hash; "" when unknown
	Development bool   // built from a checkout: accepts its development key
	// Built is the floor of every clock: signatures are never judged at an earlier
	// time. Zero when unknown.
	Built time.Time
	// Manifest is the address of a release's live manifest; "" in development.
	Manifest string
}

// Release describes this build.
func Release() Info {
	info := Info{Version: version, Commit: commit, Manifest: manifestAddress}
	if info.Development = version == ""; info.Development {
		info.Version = "dev"
	}
	if seconds, err := strconv.ParseInt(buildTime, 10, 64); err == nil {
		info.Built = time.Unix(seconds, 0).UTC()
	}
	return info
}

// DevelopmentKey is the public key of the checkout that this program was built
// in, or "". A release has none, whatever the linker was told.
func DevelopmentKey() string {
	if version != "" {
		return ""
	}
	return developmentKey
}

// Keys are the public keys whose signatures this program accepts on a manifest:
// a release's own, or the development key.
func Keys() []string {
	if version == "" {
		return list(developmentKey)
	}
	return list(releaseKeys)
}

// Threshold is how many of Keys have to sign a manifest: 1 in a development
// build. A release whose threshold is not a number accepts nothing.
func Threshold() int {
	if version == "" || releaseThreshold == "" {
		return 1
	}
	n, err := strconv.Atoi(releaseThreshold)
	if err != nil {
		return 0
	}
	return n
}

// KeyList is the key list that a release carries, as it was published. ok is
// false where it has none.
func KeyList() (raw []byte, ok bool) { return keyList(releaseFiles) }

func keyList(files fs.FS) ([]byte, bool) {
	if version == "" {
		return nil, false
	}
	raw, err := fs.ReadFile(files, "release/keys.json")
	return raw, err == nil
}

// list splits at commas and drops empty parts.
func list(text string) []string {
	var keys []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			keys = append(keys, part)
		}
	}
	return keys
}

// ReleaseManifest is the manifest that a release carries, so that its first
// launch needs no request for it, with its signatures by key id. ok is false
// where the build has none.
func ReleaseManifest() (raw []byte, signatures map[string][]byte, ok bool) {
	return releaseManifest(releaseFiles)
}

func releaseManifest(files fs.FS) (raw []byte, signatures map[string][]byte, ok bool) {
	const file = "manifest.json"
	raw, err := fs.ReadFile(files, path.Join("release", file))
	if err != nil {
		return nil, nil, false
	}
	names, err := fs.Glob(files, path.Join("release", file+".*.minisig"))
	if err != nil {
		return nil, nil, false
	}
	signatures = map[string][]byte{}
	for _, name := range names {
		id := strings.TrimSuffix(strings.TrimPrefix(path.Base(name), file+"."), ".minisig")
		if signatures[id], err = fs.ReadFile(files, name); err != nil {
			return nil, nil, false
		}
	}
	return raw, signatures, true
}
